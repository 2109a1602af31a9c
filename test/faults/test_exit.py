# SPDX-License-Identifier: MIT
"""Workers that leave by themselves: an exception, status 0 after an exception, a bare exit status."""
import os
import signal

import pytest

from conftest import (assert_silent, check_report, execute, incident_of, screen, torch_python, victim,
                      BIN)

METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
def test_exception_in_a_process(guard, method):
    r = guard.both(victim("--method", method, "--workers", 3, "exception", "label 7 is not in the plans"))
    i = incident_of(r, "worker_exception", ("certain", "likely"), code=1, role="worker")
    assert "label 7 is not in the plans" in screen(r), str(r)
    assert "ValueError" in screen(r)
    assert any("fault_victim.py" in line for line in r.lines) or "fault_victim.py" in str(i["evidence"])
    assert "label 7" in " ".join(i["last_output"])


def test_exception_that_ends_with_status_0(guard):
    """batchgenerators' workers print their traceback and leave as if all were well."""
    r = guard.both(victim("--workers", 3, "traceback_exit0", "case_0017 is broken"))
    i = incident_of(r, "worker_exception", ("certain", "likely"), code=0, role="worker")
    assert "case_0017 is broken" in screen(r), str(r)
    assert i["process"]["role"] == "worker"


def test_exception_in_a_pool_task_is_the_programs_own_business(guard):
    """Pool and executor carry the exception to the parent: no worker died."""
    for api in ("pool", "executor"):
        r = guard.both(victim("--api", api, "--patience", 10, "exception", "passed on"))
        assert r.rc == 1 and "ValueError: passed on" in r.err
        assert_silent(r)


@pytest.mark.parametrize("which", ["old", "new"])
def test_exception_in_a_dataloader_is_passed_on(guard, which):
    r = guard.both(victim("--api", "dataloader", "exception", "bad item", python=torch_python(which)))
    assert r.rc == 1 and "ValueError: bad item" in r.err
    assert_silent(r)


RANKS = """
import os, sys, torch.multiprocessing as mp
def work(rank, how):
    if rank == 1:
        if how == "raise":
            raise LookupError("no case ball_003 in the fold")
        sys.exit(1) if how == "exit" else os._exit(1)
if __name__ == "__main__":
    mp.spawn(work, args=(sys.argv[1],), nprocs=2)
"""


def test_exception_of_a_rank_is_told_by_the_trainer(guard, base):
    """torch.multiprocessing.spawn takes the exception through a file: the rank prints nothing and leaves
    with 1, which is told at once; by the run's end the trainer has said what it was."""
    name = os.path.join(base, "ranks.py")
    with open(name, "w", encoding="ascii") as f:
        f.write(RANKS)
    r = guard.both([torch_python("new"), name, "raise"], timeout=60)
    assert r.rc == 1, str(r)
    i = incident_of(r, "worker_exception", "likely", code=1, role="worker")
    assert "LookupError" in r.lines[-3] and "no case ball_003 in the fold" in "".join(i["last_output"]), str(r)
    # One that really left says nothing of that kind, and stays what it is.
    left = guard.both([torch_python("new"), name, "exit"], timeout=60)
    incident_of(left, "worker_exit", ("certain", "likely"), code=1, role="worker")


@pytest.mark.parametrize("fate", ["os_exit", "sys_exit"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_exit_status(guard, fate, method):
    r = guard.both(victim("--method", method, fate, 3))
    i = incident_of(r, "worker_exit", ("certain", "likely"), code=3, role="worker")
    assert "3" in screen(r)
    assert i["exit"]["signal"] is None


def test_exit_of_an_executors_worker(guard):
    r = guard.both(victim("--api", "executor", "os_exit", 5))
    incident_of(r, "worker_exit", ("certain", "likely"), code=5, role="worker")


def test_keyboard_interrupt_inside_a_worker_is_a_persons_will(guard):
    r = guard.both(victim("raise_signal", int(signal.SIGINT)), compare=False)
    assert r.rc == r.bare.rc
    for incident in r.incidents:
        assert incident["confidence"] != "certain" or incident["cause"] == "killed_by", str(r)


def test_terminal_escapes_are_cleaned(guard):
    """What a worker printed must not colour, retitle or reverse the reader's terminal."""
    r = guard.both(victim("print_binary", "segv_null"))
    i = incident_of(r, "worker_segfault", signo=signal.SIGSEGV)
    kept = "\n".join(i["last_output"])
    with open(os.path.join(r.dir, "latest", "report.txt"), encoding="utf-8") as f:
        kept += f.read()
    for bad in ("\x1b", "\x07", "\u202e", "\x9b", "\x00"):
        assert bad not in kept, repr(kept)
    assert "broken utf-8" in kept


def test_secrets_are_not_stored(guard):
    """Only an allow-list of the environment is kept."""
    r = guard.guarded(victim("segv_null"), env={"WANDB_API_KEY": "s3cr3t-value", "OMP_NUM_THREADS": "3",
                                                "AWS_SECRET_ACCESS_KEY": "an0ther"})
    incident_of(r, "worker_segfault")
    for name in os.listdir(r.runs[0]):
        with open(os.path.join(r.runs[0], name), "rb") as f:
            data = f.read()
        assert b"s3cr3t-value" not in data and b"an0ther" not in data, name
    assert os.stat(r.dir).st_mode & 0o777 == 0o700


def test_run_command_does_the_same(guard):
    r = guard.both(victim("segv_null"))
    q = guard.guarded(victim("segv_null"), via_run=True)
    assert q.rc == r.rc
    incident_of(q, "worker_segfault", signo=signal.SIGSEGV)
    for status in ("0", "1", "77"):
        assert guard.guarded(["sh", "-c", f"exit {status}"], via_run=True).rc == int(status)
    assert guard.guarded(["sh", "-c", "kill -9 $$"], via_run=True).rc == -9
    missing = guard.guarded(["/nonexistent/program"], via_run=True)
    assert missing.rc == 127, str(missing)


def test_report_with_nothing_to_show(guard, mounts):
    """In fresh /tmp and /var/tmp there is no run to tell of: status 1."""
    if BIN.startswith(("/tmp/", "/var/tmp/")):
        pytest.skip("the build lies in /tmp")
    r = execute(["unshare", "-m", "sh", "-c",
                 "mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /var/tmp && cd / && "
                 f"NNGUARD_DIR=/tmp/none HOME=/tmp {BIN} report"])
    assert r.rc == 1, str(r)


def test_report_shows_it_later(guard):
    r = guard.guarded(victim("segv_null"))
    incident_of(r, "worker_segfault")
    shown = guard.nnguard("report", directory=r.dir)
    assert shown.rc == 0 and "SIGSEGV" in shown.out, str(shown)
    again = guard.nnguard("report", r.runs[0])
    assert again.rc == 0 and "SIGSEGV" in again.out, str(again)
    by_name = guard.nnguard("report", os.path.basename(r.runs[0]), directory=r.dir)
    assert by_name.rc == 0, str(by_name)
    import json
    as_json = guard.nnguard("report", "--json", directory=r.dir)
    assert as_json.rc == 0
    check_report(json.loads(as_json.out))
    assert json.loads(as_json.out)["run"]["id"] == r.report["run"]["id"]
    assert guard.nnguard("--version").rc == 0 and guard.nnguard("--help").rc == 0


def test_report_of_a_run_that_lost_its_report(guard):
    """The disk was full as it was written, or somebody removed it: the journal still knows."""
    r = guard.guarded(victim("segv_null"))
    incident_of(r, "worker_segfault")
    for name in ("report.txt", "report.json"):
        os.unlink(os.path.join(r.runs[0], name))
    for args in ([r.runs[0]], []):
        shown = guard.nnguard("report", *args, directory=r.dir)
        assert shown.rc == 0 and "SIGSEGV" in shown.out, str(shown)
    assert os.path.exists(os.path.join(r.runs[0], "report.json"))
