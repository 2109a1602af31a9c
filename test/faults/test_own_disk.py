# SPDX-License-Identifier: MIT
"""The journal's own page cannot be written: the disk is full and copies on write, or the file was cut.

Whatever we lose then, the program must not: not where SIGBUS is blocked, and not in a vfork child whose
Python has put the signals back to their defaults.
"""
import shutil

import pytest

from conftest import SYSTEM_PYTHON

CUT = 'p = os.environ.get("NNGUARD_RUN")\nif p: os.truncate(p, 8192)\n'
FILL = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.mkdir(sys.argv[1] + "/none")
fd = os.open(sys.argv[1] + "/fill", os.O_CREAT | os.O_WRONLY)
n = 0
for sync in (False, True):
    for k in (1 << 20, 1 << 16, 4096)[sync:]:
        while True:
            try:
                os.pwrite(fd, os.urandom(k), n)
                n += k
                if sync: os.fsync(fd)
            except OSError: break
libc.syncfs(fd)
os.rename(sys.argv[1] + "/none", sys.argv[1] + "/full")
libc.syncfs(fd)
"""
FULL = """
import os, signal, subprocess, sys, threading, time
# nobody waits for it: that would be a record, and the first refused page ends the recording
subprocess.Popen(["env", "-u", "LD_PRELOAD", sys.executable, "-c", sys.argv[1], sys.argv[2]])
while not os.path.exists(sys.argv[2] + "/full"):
    time.sleep(0.1)
def vfork():
    print([subprocess.run(["/bin/true"]).returncode for _ in range(3)], flush=True)
def blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    open("/tmp/nng_own_disk.npz", "wb").close()
    os.unlink("/tmp/nng_own_disk.npz")
    print("fine", flush=True)
if sys.argv[3] == "vfork":
    vfork()
else:
    t = threading.Thread(target=blocked)
    t.start()
    t.join()
"""


def test_vfork_child_of_a_cut_journal(guard):
    """Before its exec CPython 3.10 to 3.12 resets SIGBUS there: a page that is refused kills it."""
    script = "import os, subprocess\n" + CUT + "print([subprocess.run(['/bin/true']).returncode for _ in '12'])"
    result = guard.guarded([SYSTEM_PYTHON, "-c", script], env={"NNGUARD_MONITOR": "0"})
    assert (result.rc, result.out, result.err) == (0, "[0, 0]\n", ""), str(result)


def test_failure_recorded_on_a_cut_journal(guard):
    """The first page that is refused takes the process's entry away, in the middle of a record."""
    script = ("import os, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))\n"
              "os.truncate(os.environ['NNGUARD_RUN'], %d)\n"
              "try: os.open('/etc/hostname', os.O_RDONLY)\nexcept OSError as e: print(e.errno)\n")
    for at in (4096, 8192, 1 << 16, 1 << 19, 3 << 19):
        result = guard.guarded([SYSTEM_PYTHON, "-c", script % at], env={"NNGUARD_MONITOR": "0"})
        assert (result.rc, result.out, result.err) == (0, "24\n", ""), f"{at} {result}"


@pytest.fixture
def btrfs(mounts, tmp_path):
    """A small btrfs: (folder on it, wrapper that mounts it for a command)."""
    if not shutil.which("mkfs.btrfs"):
        pytest.skip("no mkfs.btrfs")
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    script = (f"truncate -s 200M {image} && mkfs.btrfs -q {image} > {image}.log && "
              f'mount -o loop {image} {place} && mkdir -m 700 {place}/nn && "$@"; r=$?; '
              f"ls -A {place}/nn > {image}.left; exit $r")
    return place, lambda cmd: ["unshare", "-m", "sh", "-c", script, "disk", *cmd]


@pytest.mark.parametrize("what, out", [("vfork", "[0, 0, 0]\n"), ("blocked", "fine\n")])
def test_full_copy_on_write_disk(guard, btrfs, what, out):
    place, wrap = btrfs
    env = {"NNGUARD_DIR": str(place / "nn"), "NNGUARD_QUIET": "1"}
    result = guard.guarded([SYSTEM_PYTHON, "-c", FULL, FILL, str(place), what], env=env, wrap=wrap,
                           timeout=100)
    if "mount" in result.err:
        pytest.skip(result.err)
    assert (result.rc, result.out) == (0, out), str(result)


def test_program_that_may_not_write_there_leaves_nothing(guard, btrfs, tmp_path):
    """Without handlers of ours it gets no journal on such a disk, and none may stay behind."""
    place, wrap = btrfs
    env = {"NNGUARD_DIR": str(place / "nn"), "NNGUARD_MATCH": "true"}
    result = guard.guarded(["/bin/true"], env=env, wrap=wrap)
    assert result.rc == 0, str(result)
    assert (tmp_path / "image.left").read_text(encoding="ascii") == ""
