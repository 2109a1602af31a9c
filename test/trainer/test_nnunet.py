# SPDX-License-Identifier: MIT
"""The real nnU-Net under nnguard: healthy, and dying in the ways that its users meet.

The data set is made, planned and preprocessed once (scripts/prepare_trainer.sh) and kept under
build/trainer; each test trains into a folder of its own.
"""
import glob
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import (alive, assert_silent, check_report, descendants, fact, in_shm, incident_of,
                      need_root, screen, torch_python, wait_until, Cgroup, PREFIX, ROOT)

VENV = os.environ.get("NNG_TRAINER_VENV", os.path.join(ROOT, "build", "venv-nnunet"))
HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = os.path.join(VENV, "bin", "python")
TRAIN = ["1", "2d", "0", "-tr", "nnUNetTrainer_1epoch", "-device", "cpu"]
BUSY = 170  # seconds that one step may take on a machine that is busy with other things

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="session")
def prepared():
    if not os.path.exists(PYTHON):
        pytest.skip(f"{VENV} is missing (scripts/setup.sh trainer)")
    done = subprocess.run([os.path.join(ROOT, "scripts", "prepare_trainer.sh"), VENV],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=390)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture
def nnunet(prepared, base):
    """The environment of one nnU-Net command, with a results folder of its own."""
    results = os.path.join(base, "results")
    os.mkdir(results)
    return {"nnUNet_raw": os.path.join(prepared, "raw"),
            "nnUNet_preprocessed": os.path.join(prepared, "preprocessed"),
            "nnUNet_results": results, "nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1",
            "nnUNet_compile": "f", "MPLBACKEND": "Agg"}


def program(name):
    return [PYTHON, os.path.join(VENV, "bin", name)]


def workers_of(pid, match=b""):
    """Python children of pid that are its workers."""
    found = []
    for child in descendants(pid):
        try:
            with open(f"/proc/{child}/cmdline", "rb") as f:
                line = f.read()
        except OSError:
            continue
        if b"python" in line and match in line and b"resource_tracker" not in line:
            found.append(child)
    return sorted(found)


def report_now(guard_dir):
    """The report of a run that still goes on."""
    for path in glob.glob(os.path.join(guard_dir, "latest", "report.json")):
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    return None


def end_it(process):
    """As a person would: Ctrl-C to the whole group, then harder."""
    os.killpg(process.pid, signal.SIGINT)
    if not wait_until(lambda: process.poll() is not None, 8, 0.1):
        for pid in [*descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class StopAtIncident:
    """A `during` that waits for our first word, looks at the report, and ends the run."""

    def __init__(self, directory, more=3.0, until=lambda report: True):
        self.directory, self.more, self.until = directory, more, until
        self.report = None
        self.before = ""

    def __call__(self, process, result):
        wait_until(lambda: PREFIX in result.peek() or process.poll() is not None, BUSY, 0.05)
        if process.poll() is None:
            wait_until(lambda: self.until(report_now(self.directory)), self.more, 0.2)
        # A trainer that was killed itself may be gone before its report is written.
        self.report = wait_until(lambda: report_now(self.directory), 3, 0.1)
        self.before = result.peek()
        if process.poll() is None:
            end_it(process)


def test_healthy_training_is_silent(guard, nnunet, prepared):
    r = guard.guarded([*program("nnUNetv2_train"), *TRAIN], env=nnunet, timeout=350)
    assert r.rc == 0 and not r.timed_out, str(r)
    assert "Training done." in r.out, str(r)
    assert_silent(r)
    # Kept for the prediction test.
    kept = os.path.join(prepared, "results")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(nnunet["nnUNet_results"], kept)


def test_shared_memory_of_2_mib(guard, nnunet, mounts):
    """Nobody dies, nothing ends: told at the first lost batch, counted afterwards."""
    directory = guard.new_dir()
    stop = StopAtIncident(directory, more=6, until=lambda report: report and report["incidents"] and
                          report["incidents"][0]["count"] > 1)
    r = guard.guarded([*program("nnUNetv2_train"), *TRAIN, "-p", "nnUNetPlansBig"], env=nnunet,
                      wrap=lambda cmd: in_shm("2m", cmd), during=stop, directory=directory,
                      timeout=BUSY + 40)
    assert stop.report, f"nothing was said\n{r}"
    check_report(stop.report)
    assert len(stop.report["incidents"]) == 1, stop.report
    i = stop.report["incidents"][0]
    assert (i["cause"], i["confidence"], i["kind"]) == ("shm_exhausted", "certain", "stall"), str(r)
    assert i["process"]["role"] == "worker"
    assert fact(i, "devshm.total_bytes") == 2 << 20
    assert i["count"] > 1, i
    assert i["fixes"] and i["fixes"][0]["kind"] == "root"
    # At the first: hardly any traceback of torch's comes before our words.
    head = stop.before.split(PREFIX, 1)[0]
    assert head.count("unable to allocate shared memory") < 60, head.count("unable to allocate")
    assert sum(1 for line in r.lines if line.startswith("certain")) <= 2, str(r)
    assert "nnUNetv2_train 1 2d 0" in screen(r) or "--shm-size" in screen(r), str(r)


def kill_a_worker(number, ready="Epoch 0"):
    def during(process, result):
        assert wait_until(lambda: ready in result.peek_out() or process.poll() is not None, BUSY, 0.1)
        time.sleep(1.0)
        workers = workers_of(process.pid, b"nnUNetv2_train")
        assert workers, result.peek_out()[-500:]
        during.victim = workers[0]
        os.kill(during.victim, number)
    return during


def test_a_worker_is_killed(guard, nnunet):
    during = kill_a_worker(signal.SIGKILL)
    r = guard.guarded([*program("nnUNetv2_train"), *TRAIN], env=nnunet, during=during, timeout=BUSY + 120)
    assert r.rc == 1, str(r)
    assert "background workers are no longer alive" in r.err
    i = incident_of(r, "killed_unknown", "unknown", signo=signal.SIGKILL, role="worker")
    assert i["process"]["pid"] == during.victim
    assert r.err.rstrip().split("\n")[-1].startswith(PREFIX)


@pytest.mark.parametrize("fate,cause,confidence", [
    ("segv", "worker_segfault", "certain"),
    ("exception", "worker_exception", ("certain", "likely")),
    ("exit", "worker_exit", ("certain", "likely"))])
def test_a_worker_fails(guard, nnunet, native, fate, cause, confidence):
    env = dict(nnunet, FAULTY=fate, FAULTY_LIB=native("crash.c"))
    r = guard.guarded([PYTHON, os.path.join(HERE, "faulty.py"), *TRAIN], env=env, timeout=BUSY + 120)
    assert r.rc == 1, str(r)
    i = incident_of(r, cause, confidence, role="worker", only=False)
    assert r.report["root"] == r.report["incidents"].index(i), str(r)
    assert {j["cause"] for j in r.incidents} == {cause}, str(r)
    if fate == "segv":
        assert i["exit"]["signal"] == signal.SIGSEGV
        assert any("crash_decode_block" in str(frame) for frame in i["stack"]["native"]), i["stack"]
        assert any("generate_train_batch" in frame for frame in i["stack"]["python"]), i["stack"]
    elif fate == "exception":
        assert i["exit"]["code"] == 0, "batchgenerators' worker leaves with 0"
        assert "not in dataset.json" in screen(r), str(r)
    else:
        assert i["exit"]["code"] == 11


def test_a_worker_takes_too_much_memory(guard, nnunet):
    # The CUDA build of the newest torch makes the trainer itself so large that the kernel would choose it.
    limit = (3072 if "latest" in PYTHON else 1536) << 20
    group = Cgroup("memory")
    try:
        group.limit_memory(limit)
        r = guard.guarded([PYTHON, os.path.join(HERE, "faulty.py"), *TRAIN],
                          env=dict(nnunet, FAULTY="eat"), wrap=group.wrap, timeout=BUSY + 120)
        assert r.rc == 1, str(r)
        i = incident_of(r, "cgroup_oom", role="worker", signo=signal.SIGKILL, only=False)
        assert r.report["root"] == r.report["incidents"].index(i), str(r)
        assert fact(i, "cgroup.limit_bytes") == limit, i["evidence"]
        assert f"{limit / 2**30:.1f} GiB" in screen(r), str(r)
    finally:
        group.close()


def test_preprocessing_without_memory(guard, nnunet, prepared, base):
    """A Pool whose workers are killed as fast as it starts them: once, at once, with a count."""
    need_root()
    group = Cgroup("memory")
    try:
        group.limit_memory(700 << 20)
        place = os.path.join(base, "preprocessed", "Dataset001_Balls")
        os.makedirs(place)
        for name in ("dataset.json", "dataset_fingerprint.json", "nnUNetPlans.json"):
            shutil.copy(os.path.join(prepared, "preprocessed", "Dataset001_Balls", name), place)
        directory = guard.new_dir()
        stop = StopAtIncident(directory, more=30, until=lambda report: report and
                              any(i["count"] > 1 for i in report["incidents"]))
        r = guard.guarded([*program("nnUNetv2_preprocess"), "-d", "1", "-c", "2d", "-np", "4"],
                          env=dict(nnunet, nnUNet_preprocessed=os.path.dirname(place)),
                          wrap=group.wrap, during=stop, directory=directory, timeout=BUSY + 80)
        if group.kills() == 0:
            pytest.skip("this nnU-Net preprocesses in 700 MB without an out-of-memory kill")
        assert stop.report, f"nothing was said\n{r}"
        check_report(stop.report)
        # The killer chooses: workers again and again (one incident), perhaps the trainer as well.
        assert {i["cause"] for i in stop.report["incidents"]} == {"cgroup_oom"}, str(r)
        roles = [i["process"]["role"] for i in stop.report["incidents"]]
        assert len(roles) == len(set(roles)), f"told more than once: {roles}\n{r}"
        for incident in stop.report["incidents"]:
            assert incident["confidence"] == "certain", str(r)
            assert fact(incident, "cgroup.limit_bytes") == 700 << 20, incident["evidence"]
    finally:
        group.close()


def test_prediction_with_a_killed_worker(guard, nnunet, prepared, base):
    """ "Background workers died": the real reason, and not that the RAM was full."""
    kept = os.path.join(prepared, "results")
    if not glob.glob(os.path.join(kept, "*", "*", "fold_0", "checkpoint_final.pth")):
        pytest.skip("no trained model (the healthy training did not come to its end)")

    def during(process, result):
        worker = wait_until(lambda: workers_of(process.pid, b"spawn_main") or
                            process.poll() is not None, BUSY, 0.02)
        assert isinstance(worker, list), result.peek()
        time.sleep(0.3)
        during.victim = worker[0]
        os.kill(during.victim, signal.SIGKILL)
    r = guard.guarded([*program("nnUNetv2_predict"), "-i", os.path.join(prepared, "raw/Dataset001_Balls/imagesTs"),
                       "-o", os.path.join(base, "out"), "-d", "1", "-c", "2d", "-f", "0", "-tr",
                       "nnUNetTrainer_1epoch", "-device", "cpu", "-npp", "1", "-nps", "1"],
                      env=dict(nnunet, nnUNet_results=kept), during=during, timeout=BUSY + 100)
    i = incident_of(r, "killed_unknown", "unknown", signo=signal.SIGKILL, role="worker", only=False,
                    closing=not r.timed_out)
    assert i["process"]["pid"] == during.victim
    assert not any(j["confidence"] == "certain" for j in r.incidents), str(r)


def test_sigbus_with_an_old_torch(guard, mounts):
    """The shape of torch up to 2.9: SIGBUS in Docker's default 64 MB."""
    python = torch_python("old")
    done = subprocess.run([python, "-c", "import batchgenerators"], stderr=subprocess.DEVNULL)
    if done.returncode != 0:
        pytest.skip("no batchgenerators beside the old torch (scripts/setup.sh trainer)")
    cmd = [python, os.path.join(HERE, "old_torch.py"), "6", "8"]
    r = guard.guarded(cmd, wrap=lambda c: in_shm("64m", c), timeout=120)
    assert r.rc not in (0, None), str(r)
    assert "no longer alive" in r.err, str(r)
    report = r.report
    check_report(report)
    root = report["incidents"][report["root"]]
    assert (root["cause"], root["confidence"]) == ("shm_exhausted", "certain"), str(r)
    assert {i["cause"] for i in report["incidents"]} == {"shm_exhausted"}, str(r)
    assert fact(root, "devshm.total_bytes") == 64 << 20
    assert "64.0 MiB" in screen(r)
    assert r.err.rstrip().split("\n")[-1].startswith(PREFIX), r.err[-600:]
    wait_until(lambda: not alive(r.pid), 2)
