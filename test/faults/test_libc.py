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


ODD = """
import ctypes, os, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
bad = ctypes.c_void_p(1)
class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
def say(what, r):
    print(what, r, ctypes.get_errno() if r == -1 else "")
null = os.open("/dev/null", os.O_WRONLY)
real = os.dup(1), os.dup(2)
for fd in (1, 2):
    os.dup2(null, fd)
got = [libc.write(1, bad, ctypes.c_size_t(10)), libc.write(2, bad, ctypes.c_size_t(1 << 20)),
       libc.writev(2, (Iovec * 2)(Iovec(1, 9), Iovec(1, 9)), 2)]
for fd in (1, 2):
    os.dup2(real[fd - 1], fd)
print(got)
for fd in (2, null, 99):
    say("writev", libc.writev(fd, bad, 1))
    say("writev", libc.writev(fd, (Iovec * 1)(), 0x7fffffff))
    say("writev", libc.writev(fd, (Iovec * 1)(), -1))
say("setrlimit", libc.setrlimit(7, None))
say("prlimit", libc.prlimit(0, 7, None, None))
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
p = libc.mmap(None, 4096, 3, 0x22, -1, 0)
print("mremap", libc.mremap(p, 4096, 4096, 1 | 4, 0x200000000000))
"""


def test_arguments_that_libc_survives(guard):
    """Where libc returns, with whatever error, a hook must not look at what the kernel did not read."""
    bare = guard.bare([SYSTEM_PYTHON, "-c", ODD])
    for env in ({}, {"NNGUARD_RESCUE": "shm"}):
        result = guard.guarded([SYSTEM_PYTHON, "-c", ODD], env=env)
        assert (result.rc, result.out, result.err) == (bare.rc, bare.out, bare.err), str(result)
        assert bare.rc == 0 and "[10, 1048576, 18]" in bare.out, str(bare)


PEEKS = """
import os, struct, sys
pids = []
for i in range(100):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
def records():
    with open(os.environ["NNGUARD_RUN"], "rb") as f:
        f.seek(4096)
        return struct.unpack("Q", f.read(8))[0]
before = records()
for i in range(20):
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
print(records() - before)
for pid in pids:
    os.waitpid(pid, 0)
"""


def test_many_workers_looked_at_again_and_again(guard):
    """As torch does at each SIGCHLD: the second look at a status is no news, however many workers."""
    result = guard.guarded([SYSTEM_PYTHON, "-c", PEEKS])
    assert (result.rc, result.out) == (0, "0\n"), str(result)


STALE = """
import ctypes, errno, os, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.fwrite.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
class Cookie(ctypes.Structure):
    _fields_ = [("read", ctypes.c_void_p), ("write", ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p,
                ctypes.c_void_p, ctypes.c_size_t)), ("seek", ctypes.c_void_p), ("close", ctypes.c_void_p)]
@Cookie._fields_[1][1]
def refuse(cookie, buf, size):
    return 0
libc.fopencookie.restype = ctypes.c_void_p
libc.fopencookie.argtypes = [ctypes.c_void_p, ctypes.c_char_p, Cookie]
f = libc.fopencookie(None, b"w", Cookie(None, refuse, None, None))
libc.setvbuf(ctypes.c_void_p(f), None, 2, 0)
ctypes.set_errno(errno.ENOSPC)
print(libc.fwrite(b"x", 1, 1, f), ctypes.get_errno())
with open(os.environ["NNGUARD_RUN"], "rb") as j:
    events = j.read()[8192:8192 + 1024 * 256]
print([at // 256 for at in range(0, len(events), 256) if struct.unpack_from("i", events, at + 20)[0] == 28])
"""


def test_short_fwrite_without_an_errno(guard):
    """A stale ENOSPC of some earlier call must not get into the evidence."""
    result = guard.guarded([SYSTEM_PYTHON, "-c", STALE])
    assert (result.rc, result.out) == (0, "0 28\n[]\n"), str(result)
