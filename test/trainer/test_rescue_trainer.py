# SPDX-License-Identifier: MIT
"""NNGUARD_RESCUE=shm with the real trainers: what hangs or dies without it trains to the end."""
import json
import os
import re

import pytest

from conftest import HERE as FAULTS, in_shm, screen, torch_python
from test_nnunet import BUSY, PYTHON, TRAIN, nnunet, prepared, program  # noqa: F401  (fixtures)

HERE = os.path.dirname(os.path.abspath(__file__))
RESCUE = {"NNGUARD_RESCUE": "shm"}
pytestmark = pytest.mark.timeout(400)


def full(cmd):
    return ["unshare", "-m", "sh", "-c",
            'mount -t tmpfs -o size=2m,mode=1777 tmpfs /dev/shm && '
            '{ dd if=/dev/zero of=/dev/shm/filler bs=4k 2>/dev/null; exec "$@"; }', "sh", *cmd]


def assert_rescued(r):
    assert r.rc == 0, str(r)
    assert not r.incidents and not r.runs and not r.left, str(r)
    said = screen(r)
    assert "/dev/shm is too small" in said and "/dev/shm was too small" in said, str(r)
    assert any(line.startswith("Fix") for line in r.lines), str(r)


def test_nnunet_trains_to_the_end(guard, mounts, nnunet):  # noqa: F811
    """A whole epoch with not a page of /dev/shm free, the semaphores too: every batch and every prediction
    arrives as it was sent. The Dice of one epoch of this small network is mostly 0.93 to 0.99 with and
    without us, now and then less; a network that guesses stays below 0.1."""
    r = guard.guarded([PYTHON, os.path.join(HERE, "checked.py"), *TRAIN], wrap=full, timeout=2 * BUSY,
                      env={**nnunet, **RESCUE, "nnUNet_def_n_proc": "1"})
    assert_rescued(r)
    arrived = re.search(r"compared: (\d+) batches, (\d+) predictions", r.out)
    assert arrived and int(arrived[1]) >= 250 and int(arrived[2]) >= 2, str(r)
    for path, _, names in os.walk(nnunet["nnUNet_results"]):
        if "summary.json" in names:
            with open(os.path.join(path, "summary.json"), encoding="utf-8") as f:
                dice = json.load(f)["foreground_mean"]["Dice"]
            break
    else:
        pytest.fail(f"no summary of the validation\n{r}")
    assert dice > 0.3, f"Dice {dice}: the network has learnt nothing"


def test_nnunet_with_large_batches(guard, mounts, nnunet):  # noqa: F811
    """Each is larger than /dev/shm: without us all are lost and the trainer waits for ever."""
    r = guard.guarded([PYTHON, os.path.join(HERE, "short.py"), *TRAIN, "-p", "nnUNetPlansBig"],
                      env={**nnunet, **RESCUE, "nnUNet_def_n_proc": "1", "SHORT": "8"},
                      wrap=lambda cmd: in_shm("1m", cmd), timeout=2 * BUSY)
    assert_rescued(r)
    assert "Validation complete" in r.out + r.err, str(r)


def test_batchgenerators_with_an_old_torch(guard, mounts):
    """Sized by ftruncate: without us its workers die of SIGBUS."""
    python = torch_python("old")
    r = guard.guarded([python, os.path.join(HERE, "old_torch.py"), "3", "4"], env=RESCUE,
                      wrap=lambda cmd: in_shm("12m", cmd), timeout=BUSY)
    assert "batch 39" in r.out, str(r)
    assert_rescued(r)


@pytest.mark.parametrize("strategy,method", [("file_descriptor", "forkserver"),
                                             ("file_system", "spawn")])
def test_a_seeded_training_is_bit_identical(guard, mounts, strategy, method):
    cmd = [torch_python("new"), os.path.join(FAULTS, "victims", "rescue_victim.py"), "train", strategy,
           method, "1", "2"]
    bare = guard.bare(cmd, wrap=lambda c: in_shm("1g", c), timeout=BUSY)
    r = guard.guarded(cmd, env=RESCUE, wrap=lambda c: in_shm("1m", c), timeout=BUSY)
    assert bare.rc == 0 and r.out == bare.out, f"{r}\n== bare {bare}"
    assert_rescued(r)
