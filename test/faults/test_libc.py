# SPDX-License-Identifier: MIT
"""Hooks and the libc behind them: names that come late, frames that are not ours, odd arguments.

What a hook does with its caller's arguments must not show: the same script prints the same bare and
guarded.
"""

from conftest import SYSTEM_PYTHON, clean_env, execute, program

LATE = """
import _posixshmem, ctypes, os, sys, threading
lib = ctypes.CDLL(None, use_errno=True)
lib.sem_open.restype = ctypes.c_void_p
name = "/nng_late_%d" % os.getpid()
def tries():
    try:
        os.close(_posixshmem.shm_open(name, os.O_CREAT | os.O_RDWR, mode=0o600))
        _posixshmem.shm_unlink(name)
        print("shm made")
    except OSError as e:
        print("shm", e.errno)
    s = lib.sem_open(name.encode(), os.O_CREAT, 0o600, 1)
    print("sem", bool(s), 0 if s else ctypes.get_errno())
    if s:
        print(lib.sem_close(ctypes.c_void_p(s)), lib.sem_unlink(name.encode()))
    try:
        t = threading.Thread(target=print, args=("thread runs",))
        t.start()
        t.join()
    except RuntimeError as e:
        print(e)
    sys.stdout.flush()
tries()
ctypes.CDLL(sys.argv[1])
tries()
"""


def test_names_that_come_with_a_later_library(guard, native):
    """Before glibc 2.34 shm_open is in librt, which Python's _posixshmem brings by dlopen."""
    old, late = native("old_libc.c"), native("late_libs.c")
    for env in ({}, {"NNGUARD": "0"}, {"NNGUARD_MONITOR": "0"}):
        preload = {"NNGUARD_DIR": guard.new_dir(), "LD_PRELOAD": f"{guard.lib}:{old}", **env}
        result = execute([SYSTEM_PYTHON, "-c", LATE, late], clean_env(preload))
        assert result.rc == 0, str(result)
        assert result.out.splitlines() == [
            "shm 38", "sem False 38", "can't start new thread",
            "shm made", "sem True 0", "0 0", "thread runs"], str(result)
        assert result.err == "", str(result)


def test_syscall_leaves_the_callers_frame_alone(guard):
    frame = program("frame.c")
    bare = guard.bare([frame])
    for env in ({}, {"NNGUARD_MATCH": "*"}):
        result = guard.guarded([frame], env=env)
        assert (result.rc, result.out, result.err) == (bare.rc, bare.out, bare.err) == \
            (0, "getpid 1\nkill 0\nclose -1 9\nseven -1\n", ""), str(result)
