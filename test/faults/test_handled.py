# SPDX-License-Identifier: MIT
"""Failures that a program handled, beside the same failures where they ended it: a full disk, no more
descriptors, a closed terminal, a missing file, a held lock. What was handled is nobody's cause."""
import os
import pty
import subprocess
import sys

import pytest

from conftest import assert_silent, clean_env, incident_of, screen

HEAD = "import logging, os, resource, sys, time\nlogging.basicConfig(level=logging.INFO)\n"
WRITE = "open(sys.argv[1], 'wb').write(b'0' * (64 << 20))\n"
NO_FDS = "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); fs = []\n"
OPEN = "while True: fs.append(open('/etc/passwd'))\n"


@pytest.fixture
def root(guard):
    """Runs a script as the root of a run."""
    def run(text, *args, **kwargs):
        path = os.path.join(guard.base, "trainer.py")
        with open(path, "w", encoding="ascii") as f:
            f.write(HEAD + text)
        return guard.both([sys.executable, path, *map(str, args)], **kwargs)
    return run


def test_disk_full_logged_and_survived(root, loop):
    """logging.exception, five more epochs, and an end for a reason of its own."""
    full = os.path.join(loop("ext4", 24 << 20).mount_point, "events.log")
    r = root("try:\n    " + WRITE + "except OSError:\n    logging.exception('going on without')\n"
             "for e in range(5):\n    logging.info('epoch %d', e); time.sleep(0.5)\n"
             "logging.error('loss is NaN')\nsys.exit(1)\n", full)
    assert r.rc == 1 and "No space left on device" in r.err, str(r)
    assert_silent(r)


@pytest.mark.parametrize("end", [
    "sys.exit(3)", "sys.exit('no such dataset')", "{}['no such key']",
    "import argparse; p = argparse.ArgumentParser(); p.add_argument('--x', required=True); p.parse_args([])"])
def test_disk_full_handled_then_another_end(root, loop, end):
    full = os.path.join(loop("ext4", 24 << 20).mount_point, "cache")
    r = root("try:\n    " + WRITE + "except OSError as e:\n    print('not written:', e); print('going on')\n" + end + "\n", full)
    assert r.rc != 0, str(r)
    assert_silent(r)


def test_disk_full_and_output_that_comes_late(root, loop):
    """stdout is a pipe: what its buffer held comes behind the traceback."""
    full = os.path.join(loop("ext4", 24 << 20).mount_point, "checkpoint.pth")
    r = root("for e in range(20):\n    print('epoch', e)\n" + WRITE, full)
    incident_of(r, "disk_full", ("certain", "likely"), kind="failure", role="trainer", code=1)


def test_a_device_is_no_disk(root):
    r = root(WRITE, "/dev/full")
    assert r.rc == 1, str(r)
    assert_silent(r)


def test_descriptors_logged_and_survived(root):
    r = root(NO_FDS + "try:\n    " + OPEN + "except OSError:\n    logging.exception('closing the cache')\n"
             "for f in fs: f.close()\nfor e in range(4): logging.info('epoch %d', e); time.sleep(0.5)\n"
             "logging.error('validation data missing')\nsys.exit(1)\n")
    assert r.rc == 1 and "Too many open files" in r.err, str(r)
    assert_silent(r)


def test_descriptors_handled_then_another_end(root):
    r = root(NO_FDS + "try:\n    " + OPEN + "except OSError as e: print('handled', e.errno)\n"
             "for f in fs: f.close()\nsys.exit(1)\n")
    assert_silent(r)


def test_descriptors_used_up(root):
    incident_of(root(NO_FDS + OPEN), "fd_limit", kind="failure", role="trainer", code=1)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "temp-3/x.npy", "labels_sem.json", "data/torch_1.pt"])
def test_a_missing_file_is_no_shared_memory(root, name):
    r = root("open(sys.argv[1])\n", os.path.join("outputs", name))
    assert r.rc == 1, str(r)
    assert_silent(r)


def test_a_lock_that_is_held(root):
    r = root("import fcntl\na, b = open(sys.argv[1], 'w'), open(sys.argv[1], 'w')\n"
             "fcntl.flock(a, fcntl.LOCK_EX)\nfcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
             os.path.join(os.environ.get("TMPDIR", "/tmp"), f"nng-lock-{os.getpid()}"))
    assert "BlockingIOError" in r.err, str(r)
    assert_silent(r)


def test_a_memory_error_of_its_own(root):
    """A handled probe for address space is not what the program's own MemoryError tells of."""
    r = root("import mmap\nresource.setrlimit(resource.RLIMIT_AS, (20 << 30,) * 2)\n"
             "try: mmap.mmap(-1, 1 << 40)\nexcept OSError: pass\n"
             "raise MemoryError('replay buffer is full')\n")
    assert r.rc == 1, str(r)
    assert_silent(r)


def test_a_closed_terminal_is_no_failing_disk(guard):
    """The trainer ignores SIGHUP, and its print meets a terminal that is gone."""
    path, err = os.path.join(guard.base, "t.py"), os.path.join(guard.base, "err")
    with open(path, "w", encoding="ascii") as f:
        f.write("import signal, time\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
                "print('ready', flush=True)\n"
                "for i in range(100):\n    print('epoch', i, flush=True); time.sleep(0.1)\n")
    master, slave = pty.openpty()
    with open(err, "wb") as log:
        p = subprocess.Popen([guard.bin, "run", sys.executable, path],
                             stdin=slave, stdout=slave, stderr=log,
                             env=clean_env({"NNGUARD_DIR": guard.new_dir(), "NNGUARD_LANG": "en"}))
        os.close(slave)
        os.read(master, 100)
        os.close(master)
        assert p.wait(timeout=30) == 1
    with open(err, encoding="utf-8") as log:
        text = log.read()
    assert "disk" not in text and "its terminal or ssh session was closed" in text, text
