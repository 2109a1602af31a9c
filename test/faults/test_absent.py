# SPDX-License-Identifier: MIT
"""A worker that leaves with status 0 while it is needed: nothing shows at its end; the trainer's own words
do, later. And its look-alikes: workers that were done."""
import os

import pytest

from conftest import assert_silent, incident_of, screen, torch_python

EXECUTOR = """
import concurrent.futures as cf, multiprocessing as mp, os, sys
def task(how):
    if how == "leave": os._exit(0)
    return how
def unwilling():
    raise RuntimeError("initializer failed")
if __name__ == "__main__":
    mp.set_start_method("fork")
    with cf.ProcessPoolExecutor(2) as done:   # these leave with 0, and rightly so
        assert list(done.map(task, "abc")) == list("abc")
    more = {"initializer": unwilling} if sys.argv[1] == "unwilling" else {}
    with cf.ProcessPoolExecutor(1, **more) as e:
        print(e.submit(task, sys.argv[1]).result(timeout=30))
    if sys.argv[1] == "fail":
        raise ValueError("the fold is empty")
"""

AUGMENTER = """
import os, sys
import numpy as np
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
class Loader(SlimDataLoaderBase):
    made = 0
    def generate_train_batch(self):
        self.made += 1
        if self.made == 3 and self.thread_id == 0: os._exit(0)
        return {"data": np.ones((2, 1, 8, 8), np.float32)}
batches = NonDetMultiThreadedAugmenter(Loader(None, 2, 2), None, 2, 2, seeds=[1, 2], wait_time=0.02)
while True: next(batches)
"""


def run(guard, base, script, *args, python="python3", timeout=40):
    name = os.path.join(base, "absent.py")
    with open(name, "w", encoding="ascii") as f:
        f.write(script)
    return guard.both([python, name, *args], timeout=timeout)


def test_an_executor_misses_a_worker(guard, base):
    r = run(guard, base, EXECUTOR, "leave")
    assert r.rc == 1 and "BrokenProcessPool" in r.err, str(r)
    i = incident_of(r, "worker_exit", ("certain", "likely"), code=0, role="worker")
    assert "exit code 0" in screen(r) and i["exit"]["code"] == 0


def test_an_initializer_that_fails(guard, base):
    """The executor logs its exception and the worker leaves with 0."""
    r = run(guard, base, EXECUTOR, "unwilling")
    assert r.rc == 1, str(r)
    incident_of(r, "worker_exception", "likely", code=0, role="worker")
    assert "initializer failed" in screen(r)


@pytest.mark.parametrize("how", ["well", "fail"])
def test_workers_that_were_done_are_not_missed(guard, base, how):
    r = run(guard, base, EXECUTOR, how)
    assert r.rc == (how == "fail"), str(r)
    assert_silent(r)


def test_an_augmenter_misses_a_worker(guard, base):
    """The very message that people search for. The other worker leaves with 0 as well, because of it."""
    r = run(guard, base, AUGMENTER, python=torch_python("new"), timeout=60)
    assert r.rc == 1 and "no longer alive" in r.err, str(r)
    incident_of(r, "worker_exit", "likely", code=0, role="worker")


HANDLED = """
import ctypes, multiprocessing as mp, sys, time
def work(): ctypes.string_at(0)
if __name__ == "__main__":
    p = mp.get_context("fork").Process(target=work)
    p.start(); p.join()
    if sys.argv[1] == "lost":          # waits for what never comes, then gives up
        time.sleep(3); sys.exit(1)
    if sys.argv[1] == "at once": sys.exit(1)
    for epoch in range(6):
        print("epoch", epoch, "loss 0.1", flush=True); time.sleep(0.5)
    if sys.argv[1] == "exits": sys.exit("Dice 0.41 is below the threshold")
    if sys.argv[1] == "raises": raise ValueError("cannot process the label map")
    raise RuntimeError("a worker died, nothing to train on")
"""


@pytest.mark.parametrize("how,tied", [("exits", False), ("raises", False), ("tells", True), ("lost", True),
                                      ("at once", True)])
def test_a_death_that_was_handled_is_not_what_the_run_failed_of(guard, base, how, tied):
    """The trainer goes on after a worker's death and ends badly later. Only where its words, or its standing
    still, tie the end to that death is it named as the reason."""
    r = run(guard, base, HANDLED, how)
    assert r.rc == 1, str(r)
    incident_of(r, "worker_segfault", role="worker")
    assert r.report["root"] == (0 if tied else None), str(r)
    assert ("this run failed" in screen(r)) == tied, str(r)


CHECKPOINT = """
import multiprocessing as mp, os, signal, sys, time
def work():
    def save(*_):
        print("checkpoint saved", flush=True)
        if sys.argv[1] == "leaves": sys.exit(1)
    signal.signal(signal.SIGTERM, save)
    ready.set(); time.sleep(1.5)
    raise ValueError("label 7 unknown")
if __name__ == "__main__":
    mp.set_start_method("fork"); ready = mp.Event()
    p = mp.Process(target=work); p.start(); ready.wait()
    os.kill(p.pid, signal.SIGTERM); p.join(); sys.exit(p.exitcode)
"""


def test_a_signal_that_was_outlived(guard, base):
    """The trainer's SIGTERM was handled; the exception that came a second later is the worker's own."""
    r = run(guard, base, CHECKPOINT, "goes on")
    incident_of(r, "worker_exception", code=1, role="worker")
    assert "label 7 unknown" in screen(r)
    assert_silent(run(guard, base, CHECKPOINT, "leaves"))


PIPE = """
import multiprocessing as mp, sys
def work(end):
    end.send(1); end.recv()
if __name__ == "__main__":
    mine, other = mp.Pipe()
    p = mp.get_context("fork").Process(target=work, args=(other,))
    p.start(); other.close(); mine.recv()
    try:
        if sys.argv[1] == "fails": raise ValueError("loss is nan")
    finally:
        mine.close(); p.join()
    sys.exit("the worker is gone")
"""


@pytest.mark.parametrize("how", ["fails", "only closes"])
def test_a_worker_whose_pipe_was_closed_is_a_witness(guard, base, how):
    """The trainer failed first and closed the pipe; the worker's EOFError is what followed from it."""
    r = run(guard, base, PIPE.replace("fork", "spawn"), how)
    assert r.rc == 1, str(r)
    for i in r.incidents:
        assert i["confidence"] != "certain", str(r)
    if how == "fails":
        assert not r.report or r.report["root"] is None, str(r)
