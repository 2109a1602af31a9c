# SPDX-License-Identifier: MIT
"""Limits: descriptors, threads and processes, address space, processor time, file size."""
import os
import re
import signal
import sys

import pytest

from conftest import (as_nobody, assert_silent, incident_of, screen, victim, with_limits, SYSTEM_PYTHON)


# ---- descriptors ---------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_fd_limit_in_a_worker(guard, method):
    r = guard.both(victim("--method", method, "limit", "NOFILE", 64, 64, "many_files"))
    i = incident_of(r, "fd_limit", code=1, role="worker")
    assert "64" in screen(r), str(r)
    assert re.search(r"ulimit -n|nofile", screen(r) + str(i["fixes"])), str(r)


def test_fd_limit_of_the_trainer(guard):
    r = guard.both(victim("--api", "self", "many_files"), wrap=lambda c: with_limits("-n 64", c))
    assert r.rc == 1
    incident_of(r, "fd_limit", kind="failure", role="trainer")


def test_handled_emfile_is_no_incident(guard):
    r = guard.both(victim("--ignore", "limit", "NOFILE", 64, 64, "handled_many_files"))
    assert r.rc == 0 and "handled 24" in r.out
    assert_silent(r)


def test_handled_emfile_then_a_segfault(guard):
    script = ("import sys\n"
              f"sys.path.insert(0, {os.path.dirname(victim()[1])!r})\n"
              "import fault_victim as v, multiprocessing as mp\n"
              "def work():\n"
              "    v.limit('NOFILE', 64, 64, 'handled_many_files')\n"
              "    v.segv_null()\n"
              "p = mp.get_context('fork').Process(target=work); p.start(); p.join()\n"
              "print('STATUS', p.exitcode)\n")
    r = guard.both([sys.executable, "-c", script])
    incident_of(r, "worker_segfault", signo=signal.SIGSEGV)


# ---- threads and processes -----------------------------------------------------------------------
def test_threads_by_rlimit_nproc(guard, public):
    """RLIMIT_NPROC binds ordinary users only."""
    r = guard.both(victim("--workers", 1, "many_threads", python=SYSTEM_PYTHON, script=public.victim),
                   wrap=lambda c: as_nobody(with_limits("-u 40", c)), env={"HOME": public.home},
                   cwd=public.home)
    i = incident_of(r, "threads_limit", ("certain", "likely"), code=1, role="worker")
    said = screen(r) + str(i["fixes"])
    assert "ulimit -u" in said or "RLIMIT_NPROC" in said, str(r)
    assert "40" in screen(r), str(r)
    assert "pids-limit" not in screen(r), str(r)


def test_threads_by_pids_cgroup(guard, pids_cgroup):
    """The cgroup's limit, as in a container: not the user's limit, which is far away."""
    pids_cgroup.write("pids.max", 40)
    r = guard.both(victim("--workers", 1, "many_threads"), wrap=pids_cgroup.wrap)
    i = incident_of(r, "threads_limit", code=1, role="worker")
    assert "40" in screen(r), str(r)
    assert "cgroup" in screen(r) + str(i["evidence"]) or "--pids-limit" in screen(r), str(r)
    assert not re.search(r"^(Fix|Else) +ulimit -u", screen(r), re.M), str(r)


def test_fork_by_pids_cgroup(guard, pids_cgroup):
    pids_cgroup.write("pids.max", 40)
    r = guard.both(victim("--workers", 1, "many_children"), wrap=pids_cgroup.wrap)
    incident_of(r, "threads_limit", code=1, role="worker")


def test_the_trainer_cannot_start_workers(guard, pids_cgroup):
    pids_cgroup.write("pids.max", 12)
    r = guard.both(victim("--workers", 30, "idle"), wrap=pids_cgroup.wrap)
    assert r.rc == 1 and "Resource temporarily unavailable" in r.err, str(r)
    incident_of(r, "threads_limit", kind="failure", role="trainer")


# ---- address space -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["AS", "DATA"])
def test_address_space_of_a_worker(guard, name):
    r = guard.both(victim("limit", name, 2 << 30, 2 << 30, "big_array", 4096))
    i = incident_of(r, "address_space_limit", ("certain", "likely"), code=1, role="worker")
    assert "2.0 GiB" in screen(r), str(r)
    assert "ulimit" in screen(r) + str(i["fixes"]), str(r)


def test_address_space_of_the_trainer(guard):
    r = guard.both(victim("--api", "self", "big_array", 4096), wrap=lambda c: with_limits("-v 2097152", c))
    assert r.rc == 1 and "MemoryError" in r.err
    incident_of(r, "address_space_limit", ("certain", "likely"), kind="failure", role="trainer")


# ---- processor time ------------------------------------------------------------------------------
def test_cpu_soft_limit(guard):
    r = guard.both(victim("limit", "CPU", 1, 20, "spin", 20))
    i = incident_of(r, "cpu_limit", signo=signal.SIGXCPU, role="worker")
    assert "1 s" in screen(r) or "1 second" in screen(r), str(r)
    assert i["fixes"]


def test_cpu_hard_limit(guard):
    """At the hard limit the kernel sends SIGKILL: not an OOM kill, not a person."""
    r = guard.both(victim("limit", "CPU", 2, 2, "spin", 20))
    incident_of(r, "cpu_limit", ("certain", "likely"), signo=signal.SIGKILL, role="worker")


# ---- file size -----------------------------------------------------------------------------------
def test_file_size_limit(guard, base):
    """CPython ignores SIGXFSZ, so it is an OSError (EFBIG)."""
    r = guard.both(victim("limit", "FSIZE", 65536, 65536, "big_file", os.path.join(base, "ckpt")))
    incident_of(r, "file_size_limit", code=1, role="worker")
    assert "64.0 KiB" in screen(r), str(r)


def test_file_size_limit_by_signal(guard, base):
    r = guard.both(victim("default_xfsz", "limit", "FSIZE", 65536, 65536, "big_file",
                          os.path.join(base, "ckpt")))
    incident_of(r, "file_size_limit", signo=signal.SIGXFSZ, role="worker")


THREADS = """
import resource, sys, threading, time
threading.stack_size(1 << 20)
ev = threading.Event(); ts = []
try:
    while True:
        t = threading.Thread(target=ev.wait); t.start(); ts.append(t)
except RuntimeError:
    print("met at", len(ts), flush=True)
ev.set(); [t.join() for t in ts]
time.sleep(%s)
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + (4 << 20),) * 2)
threading.stack_size(64 << 20)
threading.Thread(target=ev.wait).start()
"""


@pytest.mark.parametrize("later", [0.2, 4])
def test_a_limit_that_was_met_and_handled_is_not_the_later_failure(guard, pids_cgroup, later):
    """The group's limit is met, fewer threads are made; then no room for a stack (ulimit -v)."""
    pids_cgroup.write("pids.max", 40)
    r = guard.both([SYSTEM_PYTHON, "-c", THREADS % later], wrap=pids_cgroup.wrap)
    assert "met at" in r.out and r.rc == 1, str(r)
    for i in r.incidents:
        assert i["confidence"] != "certain", str(r)
        assert "container's limit" not in i["summary"]["en"], str(r)


def test_plain_ulimit_of_the_trainer(guard, public):
    """All threads are gone with it as we look: the failure itself recorded limit and use."""
    script = ("import threading\nthreading.stack_size(1 << 20)\nev = threading.Event()\n"
              "while True: threading.Thread(target=ev.wait, daemon=True).start()\n")
    r = guard.both([SYSTEM_PYTHON, "-c", script], cwd=public.home, env={"HOME": public.home},
                   wrap=lambda c: as_nobody(with_limits("-u 50", c)))
    incident_of(r, "threads_limit", kind="failure", code=1, role="trainer")
    assert "50" in screen(r) and "ulimit -u" in screen(r), str(r)
