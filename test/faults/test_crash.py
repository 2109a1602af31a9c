# SPDX-License-Identifier: MIT
"""Deaths by a signal that the process itself raised: segfault, abort, arithmetic, illegal, bus error.

Each as a worker of every start method or API where that may matter; each also without the library,
with the same statuses.
"""
import re
import signal

import pytest

from conftest import (assert_silent, fact, incident_of, screen, torch_python, victim, _imports)

METHODS = ["fork", "spawn", "forkserver"]
SEGV, ABRT, FPE, ILL, BUS, TRAP = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL,
                                   signal.SIGBUS, signal.SIGTRAP)


def functions(incident):
    """The names in the native stack."""
    return " ".join(str(frame) for frame in incident["stack"]["native"])


@pytest.mark.parametrize("method", METHODS)
def test_segfault_of_a_process(guard, method):
    r = guard.both(victim("--method", method, "--workers", 3, "--bad", 1, "--ready", "segv_null"))
    i = incident_of(r, "worker_segfault", signo=SEGV, role="worker")
    assert i["process"]["start_method"] == method
    assert i["process"]["of"] == 3 and 1 <= i["process"]["ordinal"] <= 3, i["process"]
    assert "worker" in screen(r) and "SIGSEGV" in screen(r) and str(i["process"]["pid"]) in screen(r)
    # What the trainer did to the others is a consequence, not an incident.
    assert all(c["pid"] != i["process"]["pid"] for c in i["consequences"])


@pytest.mark.parametrize("method", METHODS)
def test_segfault_in_an_executor(guard, method):
    r = guard.both(victim("--api", "executor", "--method", method, "segv_null"))
    i = incident_of(r, "worker_segfault", signo=SEGV, role="worker")
    assert i["process"]["start_method"] == method


@pytest.mark.parametrize("method", METHODS)
def test_segfault_in_a_pool_whose_parent_never_says_so(guard, method):
    """The Pool replaces the dead worker and waits for ever: we must not wait with it."""
    r = guard.both(victim("--api", "pool", "--method", method, "--patience", 4, "segv_null"))
    incident_of(r, "worker_segfault", signo=SEGV, role="worker")
    assert r.said_at() < 3.5, f"said after {r.said_at()} s\n{r}"


def test_segfault_under_loky(guard):
    python = torch_python("new")
    if not _imports(python, "loky") and not _imports(python, "joblib"):
        pytest.skip("no loky here")
    script = ("import sys\n"
              "try: from loky import get_reusable_executor\n"
              "except ImportError: from joblib.externals.loky import get_reusable_executor\n"
              "import ctypes\n"
              "if __name__ == '__main__':\n"
              "    e = get_reusable_executor(max_workers=2)\n"
              "    print(e.submit(abs, -1).result())\n"
              "    e.submit(ctypes.string_at, 0).result()\n")
    path = f"{guard.base}/loky_user.py"
    with open(path, "w", encoding="ascii") as f:
        f.write(script)
    r = guard.both([python, path])
    i = incident_of(r, "worker_segfault", signo=SEGV, role="worker")
    assert i["process"]["role"] == "worker"


@pytest.mark.parametrize("which", ["old", "new"])
def test_segfault_in_a_dataloader(guard, which):
    """torch installs its own handlers in its workers; its message and status must stay."""
    python = torch_python(which)
    r = guard.both(victim("--api", "dataloader", "segv_null", python=python), timeout=60)
    incident_of(r, "worker_segfault", signo=SEGV, role="worker")
    assert "is killed by signal: Segmentation fault" in r.err or "ConnectionResetError" in r.err or \
        "exited unexpectedly" in r.err, str(r)


@pytest.mark.parametrize("fate", ["segv_wild", "segv_write_text"])
def test_segfault_wild_and_readonly(guard, fate):
    r = guard.both(victim(fate))
    incident_of(r, "worker_segfault", signo=SEGV)


def test_segfault_names_the_library_and_function(guard, native):
    path = native("crash.c")
    r = guard.both(victim("in_library", path, "crash_decode_block", 64))
    i = incident_of(r, "worker_segfault", signo=SEGV)
    assert "crash_decode_block" in functions(i), i["stack"]
    assert "libcrash.so" in functions(i)
    assert any("in_library" in frame for frame in i["stack"]["python"]), i["stack"]["python"]
    with open(f"{r.dir}/latest/report.txt", encoding="utf-8") as f:
        text = f.read()
    assert "crash_decode_block" in text


def test_segfault_inside_libc_names_the_caller(guard, native):
    """memset faulted, but the culprit is the library that called it."""
    path = native("crash.c")
    r = guard.both(victim("in_library", path, "crash_in_libc", 999999999))
    i = incident_of(r, "worker_segfault", signo=SEGV)
    assert "libcrash.so" in functions(i)
    assert "__nss_database_lookup" not in functions(i), "a false name by the nearest export"
    with open(f"{r.dir}/latest/report.txt", encoding="utf-8") as f:
        assert "libcrash" in f.read()


def test_stack_overflow_is_called_one(guard, native):
    path = native("crash.c")
    r = guard.both(victim("in_library", path, "crash_stack_overflow"))
    i = incident_of(r, "worker_segfault", signo=SEGV)
    assert re.search(r"stack", i["summary"]["en"] + screen(r), re.I), str(r)
    assert "overflow" in i["summary"]["en"].lower() + screen(r).lower(), str(r)


def test_stack_overflow_through_python(guard):
    r = guard.both(victim("python_overflow"))
    incident_of(r, "worker_segfault", signo=SEGV)


def test_fault_in_a_thread(guard, native):
    path = native("crash.c")
    r = guard.both(victim("in_thread", "in_library", path, "crash_decode_block", 64))
    i = incident_of(r, "worker_segfault", signo=SEGV)
    assert "crash_decode_block" in functions(i)


def test_stack_overflow_in_a_thread(guard, native):
    """Without an alternate stack nobody's handler runs: it is told, and never as certain by address."""
    path = native("crash.c")
    r = guard.both(victim("in_library", path, "crash_overflow_in_thread"))
    i = incident_of(r, "worker_segfault", ("certain", "likely", "possible"), signo=SEGV)
    if i["confidence"] == "certain":
        assert fact(i, "fault.si_addr") is not None or "overflow" in screen(r), str(r)


def test_fault_in_a_thread_that_blocks_the_signal(guard, native):
    """The kernel kills without asking a handler: the signal is known, the address is not."""
    path = native("crash.c")
    r = guard.both(victim("in_library", path, "crash_in_blocked_thread", 64))
    i = incident_of(r, "worker_segfault", ("likely", "possible"), signo=SEGV)
    assert i["stack"]["native"] == [] or functions(i)


def test_several_threads_fault_at_once(guard, native):
    path = native("crash.c")
    r = guard.both(victim("in_library", path, "crash_many_threads", 64))
    i = incident_of(r, "worker_segfault", signo=SEGV)
    assert i["count"] == 1
    assert r.seconds < r.bare.seconds + 3


def test_segfault_with_faulthandler(guard):
    """The program's own faulthandler still prints, once, and the status stays."""
    r = guard.both(victim("faulthandler_on", "segv_null"))
    i = incident_of(r, "worker_segfault", signo=SEGV)
    assert r.err.count("Fatal Python error: Segmentation fault") == 1, str(r)
    assert i["stack"]["python"], "no Python frames"


def test_abort(guard):
    r = guard.both(victim("abort"))
    incident_of(r, "worker_abort", signo=ABRT, role="worker")


def test_abort_quotes_what_was_said_before(guard, native):
    path = native("crash.c")
    r = guard.both(victim("in_library", path, "crash_abort"))
    i = incident_of(r, "worker_abort", signo=ABRT)
    assert "matrix is singular" in " ".join(i["last_output"]), i["last_output"]
    assert "crash_abort" in functions(i)


@pytest.mark.parametrize("function,words", [("crash_double_free", "double free"),
                                            ("crash_bad_free", "invalid pointer")])
def test_abort_by_glibc(guard, native, function, words):
    path = native("crash.c")
    r = guard.both(victim("in_library", path, function))
    i = incident_of(r, "worker_abort", signo=ABRT)
    said = screen(r) + str(i["evidence"]) + i["summary"]["en"]
    assert words in said, str(r)
    assert "libcrash.so" in functions(i)


@pytest.mark.parametrize("function", ["throw_uncaught", "throw_after_cerr"])
def test_abort_by_cxx_terminate(guard, native, function):
    path = native("throw.cpp")
    r = guard.both(victim("in_library", path, function, 5))
    i = incident_of(r, "worker_abort", signo=ABRT)
    said = " ".join(i["last_output"])
    assert "terminate called" in said and "block 5 is broken" in said, i["last_output"]
    if function == "throw_after_cerr":
        assert "unexpected end of stream 5" in said, "std::cerr was not seen"
    assert "block 5 is broken" in screen(r), str(r)


def test_fpe(guard, native):
    r = guard.both(victim("in_library", native("crash.c"), "crash_divide", 0))
    i = incident_of(r, "worker_fpe", signo=FPE)
    assert "crash_divide" in functions(i)


def test_illegal_instruction(guard, native):
    r = guard.both(victim("in_library", native("crash.c"), "crash_illegal"))
    i = incident_of(r, "worker_illegal_instruction", signo=ILL)
    assert "crash_illegal" in functions(i)


def test_bus_error_that_no_memory_is_at_fault_for(guard, native):
    """A misaligned access: SIGBUS like that of a full /dev/shm, and yet neither shm nor disk."""
    r = guard.both(victim("in_library", native("crash.c"), "crash_misaligned"))
    if "STATUS worker 0 exit -7" not in r.statuses():
        pytest.skip("this processor does not check alignment")
    incident_of(r, "worker_bus_error", ("certain", "likely"), signo=BUS)
    assert "is full" not in screen(r) and "shm-size" not in screen(r), str(r)


def test_sent_segv_is_not_a_segfault(guard):
    """kill(self, SIGSEGV) has no fault address: whoever sent it is the cause."""
    r = guard.both(victim("raise_signal", 11))
    i = incident_of(r, "killed_by", ("certain", "likely"), signo=SEGV)
    assert i["cause"] != "worker_segfault"


def test_a_repaired_fault_is_no_incident(guard, native):
    path = native("crash.c")
    r = guard.both(victim("--ignore", "repaired_fault"), env={"FAULT_LIBRARY": path})
    assert "repaired 50" in r.out, str(r)
    assert r.rc == 0
    assert_silent(r)


def test_sigterm_while_the_crash_is_held(guard, native):
    """The trainer ends its workers while one of them waits for its stack: the status stays -11."""
    path = native("crash.c")
    script = f"""
import ctypes, multiprocessing as mp, os, signal, time
def work(ready):
    lib = ctypes.CDLL({path!r})
    ready.set()
    lib.crash_decode_block(64)
def main():
    ctx = mp.get_context('fork')
    for n in range(8):
        ready = ctx.Event()
        p = ctx.Process(target=work, args=(ready,)); p.start()
        ready.wait()
        end = time.time() + 0.25
        while time.time() < end and p.exitcode is None:
            try:
                if time.time() > end - 0.25 + 0.002 * n:
                    os.kill(p.pid, signal.SIGTERM)
            except ProcessLookupError:
                break
            time.sleep(0.002)
        p.join()
        print('exit', p.exitcode, flush=True)
main()
"""
    path = f"{guard.base}/held.py"
    with open(path, "w", encoding="ascii") as f:
        f.write(script)
    import sys
    r = guard.guarded([sys.executable, path], timeout=60)
    got = [line for line in r.out.splitlines() if line.startswith("exit")]
    assert len(got) == 8, str(r)
    # SIGTERM may truly come before the fault; most of the time the fault is first.
    assert got.count("exit -11") >= 4, str(r)
    crashed = [i for i in r.incidents if i["cause"] == "worker_segfault"]
    assert crashed and sum(i["count"] for i in crashed) == got.count("exit -11"), str(r)


@pytest.mark.parametrize("fate,cause,signo", [
    (["segv_null"], "worker_segfault", SEGV), (["abort"], "worker_abort", ABRT)])
def test_the_trainer_itself_crashes(guard, fate, cause, signo):
    r = guard.both(victim("--api", "self", *fate))
    assert r.rc == -signo
    i = incident_of(r, cause, signo=signo, role="trainer")
    ended = r.report["run"]["exit"]
    assert (ended["code"], ended["signal"]) == (None, int(signo)), ended
    assert r.report["root"] == 0
    assert i["process"]["pid"] == r.report["run"]["root_pid"]
