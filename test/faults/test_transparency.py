# SPDX-License-Identifier: MIT
"""A guarded program behaves as without us: statuses, its own signal handlers, its view of them.

Every script runs bare and guarded, under several Pythons, and must print the same and end the same.
What the kernel itself has is asked by raw rt_sigaction: the suites of CPython do not notice a table
that a subprocess.run has wiped.
"""
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BUILD, IS_ROOT, SYSTEM_PYTHON, as_nobody, in_shm

PYENV = os.path.expanduser("~/.pyenv/versions")
PYTHONS = [p for p in (SYSTEM_PYTHON, f"{PYENV}/3.8.18/bin/python3", f"{PYENV}/3.13.0/bin/python3")
           if os.path.exists(p)]
RECORD_ONLY = {"NNGUARD_MONITOR": "0"}

COMMON = """
import ctypes, os, signal, sys, time
lib = ctypes.CDLL(NATIVE)
lib.sig_thread_cost.restype = ctypes.c_double
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

KERNEL = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
RT_SIGACTION = {"x86_64": 13, "aarch64": 134}[os.uname().machine]
def kernel(sig):
    '''The handler that the kernel has: "ours", "default", "ignored" or "other".'''
    act = (ctypes.c_ulong * 4)()
    if libc.syscall(ctypes.c_long(RT_SIGACTION), ctypes.c_long(sig), ctypes.c_void_p(0), ctypes.byref(act),
                    ctypes.c_long(8)):
        return "error"
    if act[0] < 2:
        return ("default", "ignored")[act[0]]
    for line in open("/proc/self/maps"):
        low, high = (int(n, 16) for n in line.split()[0].split("-"))
        if low <= act[0] < high:
            return "ours" if "libnnguard" in line else "other"
    return "nowhere"
FATAL = [signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS,
         signal.SIGTRAP]
def first():
    print(" ".join(kernel(s) for s in FATAL), flush=True)
"""


@pytest.fixture(params=PYTHONS, ids=lambda p: p.split("/")[-3] if "pyenv" in p else "system")
def python(request):
    return request.param


def program(python, native, body):
    return [python, "-c", f"NATIVE = {native('signals.c')!r}\n{COMMON}{body}"]


def without_dump(result):
    """faulthandler's dump is ours to have caused: everything else on stderr must be the same."""
    err = re.sub(r"(?s)Fatal Python error:.*", "", result.err)
    return [line for line in err.splitlines() if line and not line.startswith("nnguard: ")]


def same(guard, cmd, env=None, stderr=True, **kwargs):
    r = guard.both(cmd, env=env or RECORD_ONLY, **kwargs)
    assert not r.timed_out and not r.bare.timed_out, f"{r}\n== bare {r.bare}"
    assert r.out == r.bare.out, f"{r}\n== bare {r.bare}"
    if stderr:
        assert without_dump(r) == without_dump(r.bare), f"{r}\n== bare {r.bare}"
    return r


def events(result):
    """The journal of a run without a monitor, as lines."""
    tool = os.path.join(BUILD, "victims", "journal")
    if not os.path.exists(tool):
        pytest.skip("make victims first")
    assert len(result.runs) == 1, str(result)
    return subprocess.run([tool, os.path.join(result.runs[0], "journal")], stdout=subprocess.PIPE,
                          universal_newlines=True, check=True).stdout.splitlines()


def fields(line):
    return dict(re.findall(r"(\w+)=(\S*)", line))


def faults(result):
    return [fields(line) for line in events(result) if line.startswith(" fault")]


# ---- statuses ------------------------------------------------------------------------------------
DEATHS = {
    "segv_null": ("ctypes.string_at(0)", signal.SIGSEGV),
    "segv_noncanonical": ("ctypes.string_at(0x8000000000000000 - 5)", signal.SIGSEGV),
    "abort": ("os.abort()", signal.SIGABRT),
    "fpe": ("lib.sig_fpe(0)", signal.SIGFPE),
    "ill": ("lib.sig_ill()", signal.SIGILL),
    "misaligned": ("lib.sig_misaligned()", signal.SIGBUS),
    "trap": ("lib.sig_trap()", signal.SIGTRAP),
    "bus": ("import mmap, tempfile\nf = tempfile.TemporaryFile()\nf.truncate(8192)\n"
            "m = mmap.mmap(f.fileno(), 8192)\nf.truncate(0)\nm[4096]", signal.SIGBUS),
    "overflow_main": ("lib.sig_overflow_main()", signal.SIGSEGV),
    "overflow_thread": ("lib.sig_overflow_thread()", signal.SIGSEGV),
    "blocked_thread": ("lib.sig_blocked_thread()", signal.SIGSEGV),
    "two_threads": ("lib.sig_two_threads(8)", signal.SIGSEGV),
    "raise_segv": ("os.kill(os.getpid(), 11)", signal.SIGSEGV),
    "raise_bus_in_thread": ("import threading\nt = threading.Thread(target=lambda: "
                            "signal.pthread_kill(threading.get_ident(), 7))\nt.start(); t.join()",
                            signal.SIGBUS),
    "term_self": ("os.kill(os.getpid(), 15)", signal.SIGTERM),
    "hup_self": ("os.kill(os.getpid(), 1)", signal.SIGHUP),
    "xcpu_self": ("os.kill(os.getpid(), signal.SIGXCPU)", signal.SIGXCPU),
    "kill_self": ("os.kill(os.getpid(), 9)", signal.SIGKILL),
    "usr1_self": ("os.kill(os.getpid(), 10)", signal.SIGUSR1),
    "cpu_limit": ("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 5))\n"
                  "while True: pass", signal.SIGXCPU),
    "default_and_raise": ("lib.sig_default_and_raise(11)\nlib.sig_touch()", signal.SIGSEGV),
    "resethand": ("lib.sig_resethand(11)\nlib.sig_touch()", signal.SIGSEGV),
    "abort_in_handler": ("lib.sig_abort_in_handler()\nlib.sig_touch()", signal.SIGABRT),
    "fault_in_handler": ("lib.sig_fault_in_handler()\nlib.sig_touch()", signal.SIGSEGV),
    "abort_with_handler": ("lib.sig_return(6)\nos.abort()", signal.SIGABRT),
    "ignored_segv": ("signal.signal(11, signal.SIG_IGN)\nctypes.string_at(0)", signal.SIGSEGV),
}


@pytest.mark.parametrize("name", DEATHS)
def test_status_is_the_same(guard, native, python, name):
    body, signo = DEATHS[name]
    r = same(guard, program(python, native, body))
    assert r.rc == -signo, str(r)


@pytest.mark.parametrize("name", [n for n in DEATHS if n != "cpu_limit"])
def test_status_is_the_same_with_the_monitor(guard, native, name):
    body, signo = DEATHS[name]
    start = time.monotonic()
    r = same(guard, program(SYSTEM_PYTHON, native, body), env={"NNGUARD_QUIET": "1"})
    assert r.rc == -signo, str(r)
    assert time.monotonic() - start < 10, str(r)


CODES = {"none": (None, 0), "exit3": ("sys.exit(3)", 3), "_exit4": ("os._exit(4)", 4),
         "error": ("1/0", 1), "exit_handler": ("import atexit\natexit.register(os._exit, 5)", 5),
         "c_exit": ("ctypes.CDLL(None).exit(6)", 6), "c__Exit": ("ctypes.CDLL(None)._Exit(8)", 8),
         "quick_exit": ("ctypes.CDLL(None).quick_exit(9)", 9),
         "file_limit": ("sys.exit(lib.sig_file_limit(b'/tmp/nng-fsize-%d' % os.getpid()))", 7)}


@pytest.mark.parametrize("name", CODES)
def test_exit_code_is_the_same(guard, native, python, name):
    body, code = CODES[name]
    r = same(guard, program(python, native, body or ""))
    assert r.rc == code, str(r)


def test_ctrl_c_status_is_the_same(guard, native, python):
    r = same(guard, program(python, native, "os.kill(os.getpid(), 2)\ntime.sleep(5)"))
    assert r.rc == -signal.SIGINT or python.endswith("3.8.18/bin/python3"), str(r)


# ---- from outside --------------------------------------------------------------------------------
@pytest.mark.parametrize("signo", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGTERM,
                                   signal.SIGHUP, signal.SIGKILL, signal.SIGINT])
def test_signal_from_outside(guard, native, python, signo):
    def send(process, result):
        end = time.monotonic() + 10
        while "ready" not in result.peek_out() and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signo)
    r = same(guard, program(python, native, "say('ready')\ntime.sleep(20)"), during=send,
             stderr=signo != signal.SIGINT)
    assert r.rc == -signo, str(r)
    if signo in (signal.SIGSEGV, signal.SIGTERM):
        f = faults(r)[0]
        assert int(f["sender"]) == os.getpid() and f["sender_name"], f


def test_sigterm_while_the_handler_waits_does_not_replace_the_status(guard, native):
    """The trainer's own terminate() comes in the middle of the hold; the status stays the crash's."""
    body = ("import threading\n"
            "def later():\n"
            "    lib.sig_overflow_thread()\n"
            "threading.Thread(target=later).start()\nsay('ready')\ntime.sleep(20)")

    def send(process, result):
        end = time.monotonic() + 10
        while "ready" not in result.peek_out() and time.monotonic() < end:
            time.sleep(0.001)
        for _ in range(40):
            time.sleep(0.005)
            if process.poll() is not None:
                return
            status = open(f"/proc/{process.pid}/stat").read()
            state = status.rsplit(")", 1)[1].split()[0]
            if state in "ZX":
                return
            if _held(process.pid):
                process.send_signal(signal.SIGTERM)
                return

    def _held(pid):
        try:
            for tid in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{tid}/status") as f:
                    blocked = int(re.search(r"SigBlk:\s*(\w+)", f.read()).group(1), 16)
                if blocked & 1 << 14:
                    return True
        except (OSError, AttributeError):
            pass
        return False
    for _ in range(3):
        r = guard.guarded(program(SYSTEM_PYTHON, native, body), env={"NNGUARD_QUIET": "1"},
                          during=send)
        assert r.rc == -signal.SIGSEGV, str(r)


@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), 15)"])
def test_another_thread_leaves_while_the_handler_waits(guard, native, leave):
    """Without us the process would be dead by then, of the crash."""
    body = "lib.sig_crash_in_thread()\ntime.sleep(0.02)\n" + leave
    for _ in range(5):
        r = same(guard, program(SYSTEM_PYTHON, native, body), env={"NNGUARD_QUIET": "1"})
        assert r.rc == -signal.SIGSEGV, str(r)


# ---- a program's own handlers --------------------------------------------------------------------
HANDLERS = {
    "siginfo_segv": "lib.sig_exit_handler(11)\nlib.sig_touch()",
    "siginfo_raise": "lib.sig_exit_handler(11)\nsignal.raise_signal(11)",
    "siginfo_abort": "lib.sig_exit_handler(6)\nos.abort()",
    "siginfo_term": "lib.sig_exit_handler(15)\nos.kill(os.getpid(), 15)",
    "repair": "say(lib.sig_repair(3))",
    "repair_often": "say(lib.sig_repair(3000))",
    "jump": "say(lib.sig_jump(3))\nsay(lib.sig_jump(500))",
    "jump_elsewhere": "say(lib.sig_jump_elsewhere())",
    "python_handler": "signal.signal(11, lambda s, f: say('python', s))\nos.kill(os.getpid(), 11)\n"
                      "time.sleep(0.05)\nsay(signal.getsignal(11) is not None)",
    "python_term": "signal.signal(15, lambda s, f: say('term', s))\nos.kill(os.getpid(), 15)\n"
                   "time.sleep(0.05)",
    "term_ignored": "signal.signal(15, signal.SIG_IGN)\nos.kill(os.getpid(), 15)\nsay('alive')",
    "fsz": "say(signal.getsignal(signal.SIGXFSZ))\nos.kill(os.getpid(), signal.SIGXFSZ)\nsay('alive')",
    "term_resethand": "lib.sig_resethand(15)\nos.kill(os.getpid(), 15)\nlibc = ctypes.CDLL(None)\n"
                      "libc.signal.restype = ctypes.c_void_p\nsay(libc.signal(15, ctypes.c_void_p(1)))\n"
                      "say(libc.signal(15, ctypes.c_void_p(0)))",
    "xcpu_handler": "signal.signal(signal.SIGXCPU, lambda s, f: say('cpu'))\n"
                    "os.kill(os.getpid(), signal.SIGXCPU)\ntime.sleep(0.05)",
    "pending": "signal.pthread_sigmask(signal.SIG_BLOCK, [11, 15])\nos.kill(os.getpid(), 11)\n"
               "os.kill(os.getpid(), 15)\nsay(sorted(map(int, signal.sigpending())))\n"
               "signal.signal(11, lambda s, f: say(s))\nsignal.signal(15, lambda s, f: say(s))\n"
               "signal.pthread_sigmask(signal.SIG_UNBLOCK, [11, 15])\ntime.sleep(0.05)",
    "sigwait": "signal.pthread_sigmask(signal.SIG_BLOCK, [15])\nos.kill(os.getpid(), 15)\n"
               "say(int(signal.sigwait([15])))",
    "fork_handler": "lib.sig_exit_handler(11)\np = os.fork()\n"
                    "if not p: lib.sig_touch()\nsay(os.waitpid(p, 0)[1])",
    "vfork_crash": "lib.sig_return(7)\nsay(lib.sig_vfork_crash())\nsay(lib.sig_vfork_crash())",
    "vfork_term": "say(lib.sig_vfork_term())\nos.system('true')\nsay(signal.getsignal(15))",
    "fork_default": "p = os.fork()\nif not p: ctypes.string_at(0)\nsay(os.waitpid(p, 0)[1])",
    "fork_exit": "p = os.fork()\nif not p: os._exit(9)\nsay(os.waitpid(p, 0)[1])",
}


@pytest.mark.parametrize("name", HANDLERS)
def test_own_handlers_see_what_they_always_saw(guard, native, python, name):
    r = same(guard, program(python, native, HANDLERS[name]))
    assert r.rc in (0, 3), str(r)


def test_all_at_once(guard, native):
    """Threads that fault, set handlers and fork: nothing is lost, and nobody waits for anybody."""
    for _ in range(3):
        r = same(guard, program(SYSTEM_PYTHON, native, "say(lib.sig_hammer(1500))"), timeout=20)
        assert r.out == "0\n" and r.rc == 0, str(r)
        assert r.seconds < 6, str(r)


def test_a_repaired_fault_is_no_death(guard, native):
    r = same(guard, program(SYSTEM_PYTHON, native, "say(lib.sig_repair(3))\nos._exit(1)"))
    lines = events(r)
    assert [f["state"] for f in faults(r)] == ["4"], lines
    assert sum(line.startswith("repaired") for line in lines) == 3, lines
    assert not any(line.startswith("held") for line in lines), lines


# ---- the program's view --------------------------------------------------------------------------
VIEWS = {
    "getsignal": "for s in range(1, 65):\n"
                 "    if s not in (32, 33): say(s, signal.getsignal(s))",
    "save_and_restore": "old = signal.signal(11, signal.SIG_IGN)\nsay(old)\n"
                        "say(signal.signal(11, old))\nsay(signal.getsignal(11))\n"
                        "old = signal.signal(15, lambda *a: None)\nsay(old)\n"
                        "signal.signal(15, old)\nsay(signal.getsignal(15))",
    "c_view": """
class Act(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int),
                ("restorer", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
def view(sig):
    a = Act()
    r = libc.sigaction(sig, None, ctypes.byref(a))
    return r, a.handler, a.mask[0], hex(a.flags & 0xffffffff), bool(a.restorer)
for s in (11, 7, 6, 8, 4, 5, 31, 24, 25, 15, 1): say(s, view(s))
a = Act(handler=1, flags=0x10000000)
a.mask[0] = 0xffffffff
for s in (11, 15, 25):
    say(libc.sigaction(s, ctypes.byref(a), None), view(s))
libc.signal.restype = ctypes.c_void_p
say(libc.signal(8, ctypes.c_void_p(1)), view(8), libc.signal(8, ctypes.c_void_p(0)), view(8))
libc.siginterrupt(8, 1); say(view(8))
say(libc.signal(8, ctypes.c_void_p(1)), view(8)); libc.siginterrupt(8, 0); say(view(8))
libc.sysv_signal.restype = ctypes.c_void_p
say(libc.sysv_signal(4, ctypes.c_void_p(1)), view(4))
libc.sigset.restype = ctypes.c_void_p
say(libc.sigset(5, ctypes.c_void_p(2)), libc.sigset(5, ctypes.c_void_p(1)), view(5))
say(libc.sigignore(31), view(31))
for bad in (0, 65, 9, 19, -1): say(libc.sigaction(bad, ctypes.byref(a), None), ctypes.get_errno())
""",
    "faulthandler_views": "import faulthandler\nsay(signal.getsignal(11))\nfaulthandler.enable()\n"
                          "say(signal.getsignal(11))\nfaulthandler.disable()\n"
                          "old = signal.signal(11, signal.SIG_IGN)\nsay(old)\nsignal.signal(11, old)",
    "environ": "say('PYTHONFAULTHANDLER' in os.environ)\nimport subprocess\n"
               "say(b'FAULTH' in subprocess.check_output(['env']))",
    "faulthandler_disabled": "import faulthandler\nfaulthandler.enable()\nfaulthandler.disable()\n"
                             "say(faulthandler.is_enabled())\nctypes.string_at(0)",
    "altstack_kept": """
class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
libc = ctypes.CDLL(None)
import threading
def own():
    room = ctypes.create_string_buffer(65536)
    s, got = Stack(ctypes.addressof(room), 0, 65536), Stack()
    libc.sigaltstack(ctypes.byref(s), None)
    libc.sigaltstack(None, ctypes.byref(got))
    say(got.sp == ctypes.addressof(room), got.size)
t = threading.Thread(target=own); t.start(); t.join()
""",
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_program_sees_what_it_set(guard, native, python, name):
    r = same(guard, program(python, native, VIEWS[name]))
    assert r.rc in (0, -signal.SIGSEGV), str(r)


@pytest.mark.parametrize("name", ["getsignal", "c_view"])
def test_inherited_dispositions_stay(guard, native, name):
    """nohup's SIGHUP, and a parent's ignored SIGTERM, survive exec into and out of us."""
    ignoring = ["env", "--ignore-signal=HUP", "--ignore-signal=TERM"]
    r = same(guard, ignoring + program(SYSTEM_PYTHON, native, VIEWS[name]))
    assert r.rc == 0, str(r)


def test_ignored_signals_survive_exec(guard, native):
    body = ("signal.signal(11, signal.SIG_IGN)\nsignal.signal(15, signal.SIG_IGN)\n"
            "os.execv('/bin/grep', ['grep', 'SigIgn', '/proc/self/status'])")
    same(guard, program(SYSTEM_PYTHON, native, body))


# ---- who is first --------------------------------------------------------------------------------
AFTER = {
    "start": "",
    "subprocess_run": "import subprocess\nsubprocess.run(['true'])",
    "preexec_fn": "import subprocess\nsubprocess.run(['true'], preexec_fn=lambda: None)",
    "no_restore": "import subprocess\nsubprocess.run(['true'], restore_signals=False)",
    "posix_spawn": "p = os.posix_spawn('/bin/true', ['true'], {}, setsigdef=FATAL)\nos.waitpid(p, 0)",
    "system": "os.system('true')",
    "fork": "p = os.fork()\nif not p:\n    signal.signal(11, signal.SIG_IGN)\n    os._exit(0)\n"
            "os.waitpid(p, 0)",
    "signal_signal": "for s in FATAL: signal.signal(s, lambda *a: 0)",
    "back_to_default": "for s in FATAL:\n    signal.signal(s, signal.SIG_IGN)\n"
                       "    signal.signal(s, signal.SIG_DFL)",
    "faulthandler": "import faulthandler\nfaulthandler.enable()",
    "faulthandler_off": "import faulthandler\nfaulthandler.enable()\nfaulthandler.disable()",
    "multiprocessing": "import multiprocessing as m\np = m.get_context('fork').Process(target=int)\n"
                       "p.start(); p.join()",
    "reset_in_vfork_child": "import subprocess\nfor s in FATAL: signal.signal(s, lambda *a: 0)\n"
                            "subprocess.run(['true'])\n"
                            "print([callable(signal.getsignal(s)) for s in FATAL])",
}


@pytest.mark.parametrize("name", AFTER)
def test_our_handler_stays_first(guard, python, name):
    r = guard.guarded([python, "-c", f"{KERNEL}\n{AFTER[name]}\nfirst()"], env=RECORD_ONLY)
    assert r.out.splitlines()[-1] == "ours " * 6 + "ours", str(r)
    assert "False" not in r.out, str(r)


def test_our_handler_is_first_in_a_fork_child(guard, python):
    r = guard.guarded([python, "-c", KERNEL + "p = os.fork()\nif not p:\n    first()\n    os._exit(0)\n"
                       "os.waitpid(p, 0)"], env=RECORD_ONLY)
    assert r.out == "ours " * 6 + "ours\n", str(r)


@pytest.mark.parametrize("how", ["subprocess.run(C)", "subprocess.run(C, preexec_fn=lambda: None)",
                                 "os.spawnv(os.P_WAIT, C[0], C)",
                                 "os.waitpid(os.posix_spawn(C[0], C, os.environ), 0)"])
def test_a_child_that_is_not_python_has_no_handlers(guard, python, how):
    body = ("import os, signal, subprocess\nC = ['/bin/grep', 'SigCgt', '/proc/self/status']\n"
            "signal.signal(11, lambda *a: 0)\n") + how
    same(guard, [python, "-c", body])


def test_the_program_handler_goes_in_as_it_is_for_sigterm(guard):
    r = guard.guarded([SYSTEM_PYTHON, "-c", KERNEL + "print(kernel(15), kernel(1))\n"
                       "signal.signal(15, lambda *a: 0)\nprint(kernel(15))\n"
                       "signal.signal(15, signal.SIG_IGN)\nprint(kernel(15))\n"
                       "signal.signal(15, signal.SIG_DFL)\nprint(kernel(15), kernel(25))"],
                      env=RECORD_ONLY)
    assert r.out.split() == ["ours", "ours", "other", "ignored", "ours", "ignored"], str(r)


# ---- Python frames -------------------------------------------------------------------------------
def test_python_frames_appear(guard, native, python):
    r = guard.guarded(program(python, native, "def culprit():\n    ctypes.string_at(0)\nculprit()"),
                      env=RECORD_ONLY)
    assert "in culprit" in r.err and r.err.count("Fatal Python error") == 1, str(r)
    f = faults(r)[0]
    assert f["code"] == "1", f  # not faulthandler's SI_TKILL


@pytest.mark.parametrize("flag", ["-E", "-I"])
def test_isolated_python_has_no_faulthandler(guard, python, flag):
    r = guard.guarded([python, flag, "-c", "import faulthandler; print(faulthandler.is_enabled())"],
                      env=RECORD_ONLY)
    assert r.out.strip() == "False", str(r)


@pytest.mark.parametrize("setting", ["env", "option", "enable"])
def test_the_users_own_faulthandler_prints_once(guard, python, setting):
    body = "import ctypes, faulthandler\nprint(faulthandler.is_enabled(), flush=True)\n"
    if setting == "enable":
        body = "import ctypes, faulthandler\nfaulthandler.enable()\n"
    cmd = [python] + (["-X", "faulthandler"] if setting == "option" else []) + [
        "-c", body + "ctypes.string_at(0)"]
    env = dict(RECORD_ONLY)
    if setting == "env":
        env["PYTHONFAULTHANDLER"] = "1"
    r = guard.both(cmd, env=env)
    assert r.out == r.bare.out
    for run in (r, r.bare):
        assert run.err.count("Fatal Python error") == 1, f"{r}\n== bare {r.bare}"


def test_faulthandler_into_a_file(guard, python, tmp_path):
    path = tmp_path / "dump"
    body = (f"import ctypes, faulthandler\nf = open({str(path)!r}, 'w')\nfaulthandler.enable(f)\n"
            "ctypes.string_at(0)")
    r = same(guard, [python, "-c", body])
    assert "Fatal Python error" not in r.err and "Fatal Python error" in path.read_text()


def test_a_full_pipe_on_stderr_does_not_stop_a_death(guard):
    """Nobody reads stderr: the dump that we caused must not be what the process waits for."""
    body = ("import ctypes, fcntl, os, sys\nr, w = os.pipe()\nos.dup2(w, 2)\n"
            "fcntl.fcntl(2, fcntl.F_SETFL, os.O_NONBLOCK)\n"
            "try:\n    while True: os.write(2, b'x' * 4096)\nexcept BlockingIOError: pass\n"
            "fcntl.fcntl(2, fcntl.F_SETFL, 0)\nctypes.string_at(0)")
    r = same(guard, [SYSTEM_PYTHON, "-c", body], timeout=15)
    assert r.rc == -signal.SIGSEGV, str(r)


# ---- what is recorded ----------------------------------------------------------------------------
def test_stack_overflow_is_recognised(guard, native, python):
    for body in ("lib.sig_overflow_main()", "lib.sig_overflow_thread()"):
        r = guard.guarded(program(python, native, body), env=RECORD_ONLY)
        f = faults(r)[0]
        assert f["stack_overflow"] == "1" and f["on_altstack"] == "1", f


@pytest.mark.parametrize("name", ["segv_null", "bus", "two_threads", "default_and_raise", "fpe"])
def test_others_are_no_stack_overflow(guard, native, name):
    r = guard.guarded(program(SYSTEM_PYTHON, native, DEATHS[name][0]), env=RECORD_ONLY)
    f = faults(r)[0]
    assert f["stack_overflow"] == "0" and f["state"] == "5" and int(f["code"]) > 0, f


def test_a_crash_of_many_threads_is_one_record(guard, native):
    r = guard.guarded(program(SYSTEM_PYTHON, native, "lib.sig_two_threads(8)"), env=RECORD_ONLY)
    lines = events(r)
    assert sum(line.startswith("held") for line in lines) == 1, lines


SHM = {
    "fd_open": "import mmap\nf = os.open('/dev/shm/torch_1', os.O_RDWR | os.O_CREAT)\n"
               "os.ftruncate(f, 8 << 20)\nm = mmap.mmap(f, 8 << 20)\nos.unlink('/dev/shm/torch_1')\n"
               "for i in range(0, 8 << 20, 4096): m[i] = 1",
    "fd_closed": "lib.sig_fill_shm(b'/torch_1', 8 << 20)",
}


@pytest.mark.skipif(not IS_ROOT, reason="mounts a small /dev/shm")
@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("how", SHM)
def test_full_shared_memory_is_recorded(guard, native, user, how):
    cmd = program(SYSTEM_PYTHON, native, SHM[how])
    env = dict(RECORD_ONLY, NNGUARD_DIR="/tmp/nng-transparency-%d-%s" % (os.getpid(), user))
    wrap = (lambda c: in_shm("1m", as_nobody(c) if user == "nobody" else c))
    r = guard.both(cmd, env=env, wrap=wrap)
    try:
        f = faults(r)[0]
    finally:
        subprocess.run(["rm", "-rf", env["NNGUARD_DIR"]], check=True)
    assert r.rc == -signal.SIGBUS
    assert f["devshm"] == "1" and f["statfs"] == "1" and f["bavail"] == "0", f
    source = "1" if how == "fd_open" else "3" if user == "root" else "4"
    assert f["size"] == str(8 << 20) and f["size_source"] == source and f["shared"] == "1", f
    assert f["path"] == "/dev/shm/torch_1" and f["deleted"] == "1", f


def test_a_truncated_file_is_recorded(guard, native):
    r = guard.guarded(program(SYSTEM_PYTHON, native, DEATHS["bus"][0]), env=RECORD_ONLY)
    f = faults(r)[0]
    assert f["size"] == "0" and f["size_source"] == "1" and f["devshm"] == "0", f


def test_glibc_says_why_it_aborts(guard):
    body = "import ctypes\nc = ctypes.CDLL(None)\nc.malloc.restype = ctypes.c_void_p\n" \
           "p = c.malloc(64)\nc.free(ctypes.c_void_p(p + 16))"
    r = guard.guarded([SYSTEM_PYTHON, "-c", body], env=RECORD_ONLY)
    assert r.rc == -signal.SIGABRT
    assert any("abort=free(): invalid pointer" in line for line in events(r)), events(r)


def test_sent_signals_are_recorded_before_they_arrive(guard):
    body = ("import os, signal, sys\np = os.fork()\nif not p:\n    import time; time.sleep(20)\n"
            "os.kill(p, 15)\nos.waitpid(p, 0)\n"
            "if hasattr(os, 'pidfd_open'):\n"
            "    q = os.fork()\n    if not q:\n        import time; time.sleep(20)\n"
            "    signal.pidfd_send_signal(os.pidfd_open(q), 9)\n    os.waitpid(q, 0)\n"
            "print(p, q)\nos.kill(p, 0) if False else None\nsys.exit(1)")
    r = guard.guarded([SYSTEM_PYTHON, "-c", body], env=RECORD_ONLY)
    p, q = r.out.split()
    kills = [fields(line) for line in events(r) if line.startswith("kill")]
    assert [(k["a"], k["b"], k["call"]) for k in kills] == [(p, "15", "kill"),
                                                           (q, "9", "pidfd_send_signal")], kills


# ---- our own journal ------------------------------------------------------------------------------
@pytest.mark.parametrize("end", ["os._exit(3)", "sys.exit(3)", "ctypes.string_at(0)", "os.abort()"])
def test_a_journal_that_loses_its_pages_hurts_nobody(guard, native, python, end):
    """As on a copy-on-write disk that is full: every touch of our own mapping is a SIGBUS."""
    body = ("import threading\nsay('ready')\nwhile not os.path.exists(os.environ['GO']): time.sleep(0.01)\n"
            "p = os.fork()\nif not p: os._exit(5)\nsay(os.waitpid(p, 0)[1])\n"
            "t = threading.Thread(target=os.getpid)\nt.start(); t.join()\n"
            "os.write(2, b'words\\n')\nos.kill(os.getpid(), 0)\n" + end)
    go = os.path.join(guard.base, "go%d" % time.monotonic_ns())

    def cut(process, result):
        limit = time.monotonic() + 10
        while "ready" not in result.peek_out() and time.monotonic() < limit:
            time.sleep(0.01)
        if guard.made:
            for run in os.listdir(guard.made[-1]) if os.path.isdir(guard.made[-1]) else []:
                os.truncate(os.path.join(guard.made[-1], run, "journal"), 0)
        open(go, "w").close()
    r = same(guard, program(python, native, body), env=dict(RECORD_ONLY, GO=go), during=cut)
    assert os.path.getsize(os.path.join(r.runs[0], "journal")) == 0
    assert r.rc in (3, -signal.SIGSEGV, -signal.SIGABRT), str(r)


# ---- leaving --------------------------------------------------------------------------------------
LEAVING = """
import ctypes, multiprocessing, os, sys
def bad(): ctypes.string_at(0)
p = multiprocessing.get_context('fork').Process(target=bad)
p.start(); p.join()
c = ctypes.CDLL(None)
c.printf(b'from the buffer of C\\n')
print('last words of the trainer', file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["sys.exit(2)", "os._exit(2)", "c.exit(2)", "os.kill(os.getpid(), 10)",
                                 "os.kill(os.getpid(), 15)", "ctypes.string_at(0)", "os.abort()",
                                 "raise KeyboardInterrupt"])
def test_the_closing_block_is_the_last_thing(guard, how):
    r = guard.both([SYSTEM_PYTHON, "-c", LEAVING + how], timeout=20)
    last = [line for line in r.err.splitlines() if line][-1]
    assert last.startswith("nnguard: "), str(r)
    assert r.err.index("last words") < r.err.rindex("nnguard: this run"), str(r)
    assert r.out == r.bare.out, str(r)


def test_the_closing_block_follows_the_destructors_of_libraries(guard, native):
    body = LEAVING + "lib.sig_speak_at_the_end()\nimport atexit\n" \
        "atexit.register(lambda: print('python too', file=sys.stderr))\nsys.exit(2)"
    r = guard.both(program(SYSTEM_PYTHON, native, body), timeout=20)
    assert r.err.index("python too") < r.err.index("words of a library") < \
        r.err.rindex("nnguard: this run"), str(r)


def test_leaving_without_an_incident_waits_for_nobody(guard):
    """Twenty short runs, each no more than the start and a little: no second is waited for."""
    cost = []
    for _ in range(20):
        r = guard.both([SYSTEM_PYTHON, "-c", "pass"])
        cost.append(r.ended - r.bare.ended)
        assert not r.lines, str(r)
    assert sorted(cost)[10] < 0.1, cost


# ---- PID 1 ---------------------------------------------------------------------------------------
@pytest.mark.skipif(not IS_ROOT, reason="needs a pid namespace")
@pytest.mark.parametrize("name", ["term_self", "segv_null", "abort", "raise_segv", "fpe", "trap", "bus"])
def test_as_pid_1(guard, native, python, name):
    wrap = (lambda c: ["unshare", "-pf", "--mount-proc", *c])
    body = DEATHS[name][0] + "\nsay('alive')\nctypes.CDLL(None).fflush(None)\nos._exit(44)"
    same(guard, program(python, native, body), wrap=wrap, timeout=20)


@pytest.mark.parametrize("body", ["pass", "import os; os._exit(0)", "import sys; sys.exit(0)"])
def test_a_run_that_is_over_before_the_monitor_starts_is_no_death(guard, body, tmp_path, monkeypatch):
    """On a busy machine: the root was dead when the monitor met it, and was called killed."""
    shutil.copy(guard.lib, tmp_path)
    slow = tmp_path / "nnguard"
    slow.write_text(f'#!/bin/sh\nsleep 0.4\nexec {guard.bin} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(guard, "lib", str(tmp_path / "libnnguard.so"))
    r = guard.both([SYSTEM_PYTHON, "-c", body])
    assert not r.lines and not r.incidents, str(r)


# ---- threads ---------------------------------------------------------------------------------------
def test_a_thread_that_cannot_be_made_is_recorded(guard, python):
    body = ("import resource, threading, sys\nresource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))\n"
            "threading.stack_size(64 << 20)\nimport time\n"
            "try:\n    for i in range(64): threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n"
            "except RuntimeError as e: print(e)\nsys.stdout.flush()\nimport os\nos._exit(1)")
    r = same(guard, [python, "-c", body])
    assert "can't start new thread" in r.out
    assert any(line.startswith("fail call=pthread_create") for line in events(r)), events(r)


def test_threads_of_every_kind_end_well(guard, native, python):
    body = ("say(lib.sig_threads_of_every_kind(200))\n"
            "import threading\nn = []\n"
            "t = [threading.Thread(target=n.append, args=(i,)) for i in range(300)]\n"
            "[x.start() for x in t]; [x.join() for x in t]\nsay(len(n))")
    r = same(guard, program(python, native, body))
    assert r.out.split() == ["200", "300"] and r.rc == 0, str(r)


# ---- cost ----------------------------------------------------------------------------------------
def test_a_thread_costs_little_more(guard, native, capsys):
    body = "say(min(lib.sig_thread_cost(2000) for _ in range(5)))"
    r = guard.both(program(SYSTEM_PYTHON, native, body), env=RECORD_ONLY)
    bare, ours = float(r.bare.out), float(r.out)
    with capsys.disabled():
        print(f"\n  a thread, created and joined: {bare:.2f} us bare, {ours:.2f} us guarded")
    assert ours < bare * 1.5 + 5, (bare, ours)
