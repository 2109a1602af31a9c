# SPDX-License-Identifier: MIT
"""Rescue: whoever reaches a segment sees its memory, by whatever way, or the call fails as without us;
and a /dev/shm that has room is not touched."""
import sys

import pytest

from conftest import assert_silent, clean_env, execute, in_shm, screen

RESCUE = {"NNGUARD_RESCUE": "shm"}
HEAD = """
import ctypes, fcntl, mmap, os, subprocess, sys, tempfile, time
D = "/dev/shm/"; S = 8 << 20
libc = ctypes.CDLL(None, use_errno=True)
def shm_open(name, flags):
    return libc.shm_open(name.encode(), flags, 0o600)
def make(name, flags=os.O_RDWR | os.O_CREAT | os.O_EXCL):
    return os.open(D + name, flags, 0o600)
def size(fd):
    try:
        os.ftruncate(fd, S); os.posix_fallocate(fd, 0, S); return "given"
    except OSError as e:
        return e.errno
def fork(body):
    pid = os.fork()
    if pid == 0:
        try:
            body(); os._exit(0)
        except OSError as e:
            os._exit(e.errno)
        except BaseException:
            os._exit(99)
    return pid
def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def code(body):
    return [sys.executable, "-c", HEAD + body]


def in_little(guard, body, size="1m", **kwargs):
    return guard.guarded(code(body), env=RESCUE, wrap=lambda c: in_shm(size, c), **kwargs)


# ---- an empty file that others have already ---------------------------------------------------------
SHARED = {
    "dup": "fd = make('psm_x'); other = os.dup(fd); print(size(fd), os.path.sameopenfile(fd, other))",
    "fcntl": "fd = make('psm_x'); o = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50)\n"
             "print(size(fd), os.path.sameopenfile(fd, o))",
    "opened": "fd = make('psm_x'); o = os.open(D + 'psm_x', os.O_RDONLY)\n"
              "print(size(fd), os.path.sameopenfile(fd, o))",
    "mapped": "fd = make('psm_x'); m = mmap.mmap(fd, 4096) if os.truncate(fd, 4096) is None else 0\n"
              "os.truncate(fd, 0); print(size(fd), True)",
    "fork": "fd = make('psm_x'); r, w = os.pipe(); p = fork(lambda: os.read(r, 1))\n"
            "print(size(fd), True); os.write(w, b'x'); status(p)",
    "sent": "import socket, array; fd = make('psm_x'); a, b = socket.socketpair()\n"
            "a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])\n"
            "o = array.array('i', b.recvmsg(1, socket.CMSG_SPACE(4))[1][0][2][:4])[0]\n"
            "print(size(fd), os.path.sameopenfile(fd, o))",
    "child": "fd = make('psm_x'); os.set_inheritable(fd, True)\n"
             "p = subprocess.Popen(['sleep', '9'], pass_fds=[fd]); print(size(fd), True); p.kill()",
    "exclusive fork": "fd = make('psm_x'); p = fork(lambda: time.sleep(9)); print(size(fd), True); "
                      "os.kill(p, 9)",
}


@pytest.mark.parametrize("how", SHARED)
def test_an_empty_file_that_others_have_is_left_alone(guard, mounts, how):
    r = in_little(guard, SHARED[how])
    assert r.out == "28 True\n" and r.rc == 0, str(r)


def test_output_of_a_child(guard, mounts):
    """A scratch file for its output, TMPDIR=/dev/shm: whatever could be written is read."""
    r = in_little(guard, """
with tempfile.TemporaryFile(dir=D, buffering=0) as f:
    def fill():
        for i in range(8): f.write(b"x" * (1 << 20))
    s = status(fork(fill)); f.seek(0); n = len(f.read())
    print(s, n >= (1 << 19) if s else n == 8 << 20)
""")
    assert r.out in ("28 True\n", "0 True\n"), str(r)


def test_who_waits_for_the_size_sees_the_data(guard, mounts):
    r = in_little(guard, """
seen = 0
for i in range(12):
    name = D + "psm_poll%d" % i
    def wait():
        end = time.time() + 9
        while time.time() < end:
            try: fd = os.open(name, os.O_RDWR)
            except FileNotFoundError: continue
            if os.fstat(fd).st_size: break
            os.close(fd)
        m = mmap.mmap(fd, S)
        while m[0] != 7 and time.time() < end: time.sleep(.001)
        os._exit(m[0] != 7)
    pid = fork(wait); time.sleep(.02)
    fd = make("psm_poll%d" % i); os.ftruncate(fd, S); m = mmap.mmap(fd, S); m[0] = 7
    seen += status(pid) == 0; os.unlink(name)
print(seen)
""")
    assert r.out == "12\n", str(r)


# ---- by name ------------------------------------------------------------------------------------------
def test_the_name_tells_and_changes_what_it_names(guard, mounts):
    """Also to programs that are not guarded."""
    r = in_little(guard, """
fd = make("psm_n"); os.posix_fallocate(fd, 0, S); os.pwrite(fd, b"hello", 5 << 20)
print(os.path.getsize(D + "psm_n") == S, os.path.sameopenfile(fd, os.open(D + "psm_n", os.O_RDWR)))
os.truncate(D + "psm_n", 6 << 20); os.chmod(D + "psm_n", 0o640)
print(os.fstat(fd).st_size == 6 << 20, oct(os.fstat(fd).st_mode & 0o777))
bare = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
print(subprocess.run(["tail", "-c", str(1 << 20), D + "psm_n"], env=bare,
                     stdout=subprocess.PIPE).stdout[:5])
os.rename(D + "psm_n", D + "psm_m"); os.close(fd)
fd = shm_open("/psm_m", os.O_RDWR); print(os.pread(fd, 5, 5 << 20))
print(shm_open("/psm_m", os.O_RDWR | os.O_CREAT | os.O_EXCL), ctypes.get_errno())
os.unlink(D + "psm_m"); print(os.listdir(D))
""")
    assert r.out == "True True\nTrue 0o640\nb'hello'\nb'hello'\n-1 17\n[]\n", str(r)


def test_two_runs(guard, mounts):
    """Two programs that a shell starts are two runs: the second one attaches by name."""
    server = HEAD + ("fd = shm_open('/psm_two', os.O_RDWR | os.O_CREAT | os.O_EXCL); os.ftruncate(fd, S)\n"
                     "m = mmap.mmap(fd, S); m[:5] = b'hello'; os.close(fd)\n"
                     "os.mkdir(D + 'ready'); end = time.time() + 9\n"
                     "while os.path.exists(D + 'ready') and time.time() < end: time.sleep(.02)\n"
                     "os.unlink(D + 'psm_two')\n")
    client = HEAD + ("end = time.time() + 9\n"
                     "while not os.path.exists(D + 'ready') and time.time() < end: time.sleep(.02)\n"
                     "fd = shm_open('/psm_two', os.O_RDWR); print(os.fstat(fd).st_size == S)\n"
                     "print(mmap.mmap(fd, S)[:5]); os.rmdir(D + 'ready')\n")
    script = 'LD_PRELOAD="$0" "$1" -c "$2" & LD_PRELOAD="$0" "$1" -c "$3"; wait'
    r = execute(in_shm("1m", ["sh", "-c", script, guard.lib, sys.executable, server, client]),
                clean_env({**RESCUE, "NNGUARD_DIR": guard.new_dir()}), timeout=30)
    assert r.out == "True\nb'hello'\n", str(r)


def test_the_monitor_is_killed(guard, mounts):
    """What it held is gone: an error, never zeros."""
    r = in_little(guard, """
fd = make("psm_k"); os.posix_fallocate(fd, 0, S); os.close(fd)
pid = int(os.readlink(D + "psm_k").split("/")[2]); os.kill(pid, 9); time.sleep(.2)
try: print(os.open(D + "psm_k", os.O_RDWR))
except OSError as e: print(e.errno)
print(shm_open("/psm_k", os.O_RDWR), ctypes.get_errno())
fd = make("psm_l"); print(size(fd))
""")
    assert r.out == "2\n-1 2\n28\n", str(r)


def test_a_killed_maker_leaves_nothing(guard, mounts):
    """At whatever point: neither the link's first name nor the file that it replaced."""
    r = in_little(guard, """
for i in range(60):
    def work():
        k = 0
        while True:
            fd = make("torch_%d_%d_1" % (os.getpid(), k)); os.ftruncate(fd, 1 << 20)
            os.close(fd); os.unlink(D + "torch_%d_%d_1" % (os.getpid(), k)); k += 1
    pid = fork(work); time.sleep(.004 + i % 10 * .0004); os.kill(pid, 9); os.waitpid(pid, 0)
for name in os.listdir(D):
    if name.startswith("torch"): os.unlink(D + name)
end = time.time() + 9
while os.listdir(D) and time.time() < end: time.sleep(.1)
print(os.listdir(D))
""")
    assert r.out == "[]\n", str(r)


def test_the_monitor_may_open_little(guard, mounts):
    """What it cannot hold is not rescued."""
    body = """
n = 0
try:
    for i in range(60):
        fd = make("psm_%d" % i); os.posix_fallocate(fd, 0, 2 << 20); os.close(fd); n += 1
except OSError as e: print(e.errno, n > 5)
for i in range(n): print(end="." if os.path.getsize(D + "psm_%d" % i) == 2 << 20 else "!")
"""
    r = guard.guarded(code(body), env=RESCUE, wrap=lambda c: in_shm(
        "1m", ["sh", "-c", 'ulimit -n 80; exec "$@"', "sh", *c]))
    assert r.out.startswith("28 True\n") and "!" not in r.out, str(r)


# ---- room ---------------------------------------------------------------------------------------------
def test_sparse_segments_cost_nothing(guard, mounts):
    """Four of 400 MiB in 1 GiB, a page of each used."""
    r = in_little(guard, """
fds = []
for i in range(4):
    fds.append(make("psm_s%d" % i)); os.ftruncate(fds[-1], 400 << 20); mmap.mmap(fds[-1], 4096)[0] = 1
print(sum(os.fstat(fd).st_blocks for fd in fds) * 512 <= 4 * 4096)
""", size="1g")
    assert r.rc == 0 and r.out == "True\n", str(r)


def test_a_healthy_run_in_a_tight_cgroup(guard, mounts, memory_cgroup):
    """350 MiB reserved, 1 MiB used, room in /dev/shm; 250 MiB of ordinary memory beside it."""
    memory_cgroup.limit_memory(512 << 20)
    body = """
fd = make("psm_ring"); os.unlink(D + "psm_ring"); os.ftruncate(fd, 350 << 20)
m = mmap.mmap(fd, 350 << 20); m[:1 << 20] = b"r" * (1 << 20); a = b"x" * (250 << 20)
print(len(a) >> 20)
"""
    r = guard.guarded(code(body), env=RESCUE, wrap=lambda c: memory_cgroup.wrap(in_shm("1g", c)))
    assert r.rc == 0 and r.out == "250\n" and memory_cgroup.kills() == 0, str(r)
    assert_silent(r)


@pytest.mark.parametrize("unlink", [False, True])
def test_many_small_ones_are_made_first_and_filled_later(guard, mounts, unlink):
    """Each fits, all together do not: without us SIGBUS."""
    body = f"""
maps = []
for i in range(200):
    fd = make("psm_%d" % i); os.ftruncate(fd, 900 << 10); maps.append(mmap.mmap(fd, 900 << 10))
    if {unlink}: os.unlink(D + "psm_%d" % i)
for m in maps: m[:] = b"x" * (900 << 10)
print("filled")
"""
    bare = guard.bare(code(body), wrap=lambda c: in_shm("64m", c))
    assert bare.rc == -7, str(bare)
    r = in_little(guard, body, size="64m")
    assert r.rc == 0 and r.out == "filled\n", str(r)


def test_a_size_given_by_one_byte_far_behind(guard, mounts):
    """As np.memmap makes its files: without us SIGBUS."""
    body = """
with open(D + "torch_1_map", "w+b") as f:
    f.seek(S - 1); f.write(b"e"); f.flush(); m = mmap.mmap(f.fileno(), S)
m[:S - 1] = b"x" * (S - 1)
print(os.path.getsize(D + "torch_1_map") == S, m[-2:], open(D + "torch_1_map", "rb").read()[-2:])
"""
    assert guard.bare(code(body), wrap=lambda c: in_shm("1m", c)).rc == -7
    r = in_little(guard, body)
    assert r.rc == 0 and r.out == "True b'xe' b'xe'\n", str(r)


@pytest.mark.parametrize("how", ["os.posix_fallocate(fd, 0, 400 << 20)",
                                 "os.ftruncate(fd, 400 << 20); mmap.mmap(fd, 400 << 20)[::4096]",
                                 "[os.write(fd, b'x' * (1 << 20)) for i in range(400)]"])
def test_growing_later_is_no_way_into_an_oom_kill(guard, mounts, memory_cgroup, how):
    memory_cgroup.limit_memory(256 << 20)
    body = f"""
def grow():
    fd = make("psm_g"); os.posix_fallocate(fd, 0, S); {how}
print(status(fork(grow)))
"""
    r = guard.guarded(code(body), env=RESCUE, wrap=lambda c: memory_cgroup.wrap(in_shm("1m", c)))
    assert r.out == "28\n" and memory_cgroup.kills() == 0, str(r)
    assert "rescue refused" in r.err and "disk is full" not in r.err, str(r)


# ---- what is not ours -----------------------------------------------------------------------------------
def test_memfds_of_the_program_are_its_own(guard, mounts):
    r = in_little(guard, """
fd = make("torch_1_x"); n = 0
while n < S: n += os.write(fd, b"x" * (1 << 20))
own = [os.memfd_create("own") for i in range(20)]
for m in own: os.write(m, b"1")
print(sum(os.fstat(m).st_blocks for m in own) * 512 == 20 * 4096)
m = os.memfd_create("sealed", os.MFD_ALLOW_SEALING); os.ftruncate(m, 8192)
fcntl.fcntl(m, 1033, 4); print(os.write(m, b"1"))
""")
    assert r.out == "True\n1\n" and r.rc == 0, str(r)


def test_an_absurd_size_is_the_programs_own_error(guard, mounts):
    r = in_little(guard, """
fd = make("psm_a")
try: os.posix_fallocate(fd, 0, 1 << 62)
except OSError as e: print(e.errno)
print(libc.sem_close(None))
""")
    assert r.out == "28\n-1\n" and "rescue refused" not in screen(r), str(r)
