# SPDX-License-Identifier: MIT
"""Files that end too early, disks that are full, disks that fail: three kinds of SIGBUS, and the
errors that go with them."""
import os
import signal
import subprocess

import pytest

from conftest import (as_nobody, assert_silent, in_shm, incident_of, screen, victim, SYSTEM_PYTHON)

BUS = signal.SIGBUS


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_truncated_by_another_process(guard, base, method):
    path = os.path.join(base, "case_0001.npy")
    r = guard.both(victim("--method", method, "mapped_then_truncated", path))
    i = incident_of(r, "file_truncated", signo=BUS, role="worker")
    assert "case_0001.npy" in screen(r), str(r)
    assert "/dev/shm" not in screen(r)
    assert any("case_0001.npy" in name for name in i["last_files"]) or "case_0001" in str(i["evidence"])


def test_truncated_with_no_descriptor_open(guard, base):
    path = os.path.join(base, "case_0002.npy")
    r = guard.both(victim("mapped_then_truncated_closed", path))
    incident_of(r, "file_truncated", ("certain", "likely"), signo=BUS)


def test_truncated_and_unlinked(guard, base):
    """Nobody can tell the size any more: not more than likely unless it was recorded."""
    path = os.path.join(base, "case_0003.npy")
    r = guard.both(victim("mapped_then_truncated_closed", path, 1048576, 4096, 1))
    incident_of(r, "file_truncated", ("certain", "likely", "possible"), signo=BUS)


def test_truncated_as_an_ordinary_user(guard, public):
    path = os.path.join(public.home, "case_0004.npy")
    r = guard.both(victim("mapped_then_truncated", path, python=SYSTEM_PYTHON, script=public.victim),
                   wrap=as_nobody, env={"HOME": public.home}, cwd=public.home)
    incident_of(r, "file_truncated", signo=BUS)


def test_disk_full_under_a_mapping(guard, loop):
    """A sparse file on a full ext4: SIGBUS, and /dev/shm has nothing to do with it."""
    fs = loop("ext4", 24 << 20)
    path = os.path.join(fs.mount_point, "cache.dat")

    r = guard.bare(victim("sparse_mapped", path))
    os.unlink(path)
    bare = r.statuses()
    r = guard.guarded(victim("sparse_mapped", path))
    assert r.statuses() == bare == ["STATUS worker 0 exit -7"], str(r)
    incident_of(r, "disk_full", signo=BUS, role="worker")
    assert fs.mount_point in screen(r), str(r)


def test_disk_full_in_a_write(guard, loop):
    """The worker's traceback is the proof that ENOSPC ended it."""
    fs = loop("ext4", 24 << 20)
    path = os.path.join(fs.mount_point, "out.npz")
    r = guard.both(victim("write_file", path))
    i = incident_of(r, "disk_full", code=1, role="worker")
    assert fs.mount_point in screen(r), str(r)
    assert "No space left on device" in " ".join(i["last_output"])


def test_disk_full_of_the_trainer(guard, loop):
    fs = loop("ext4", 24 << 20)
    path = os.path.join(fs.mount_point, "checkpoint.pth")
    r = guard.both(victim("--api", "self", "write_file", path))
    assert r.rc == 1
    incident_of(r, "disk_full", kind="failure", role="trainer", code=1)


def test_inodes_used_up(guard, loop):
    """Room for gigabytes and none for a file name."""
    fs = loop("ext4", 8 << 20)
    n = 0
    try:
        while True:
            with open(os.path.join(fs.mount_point, f"f{n}"), "wb"):
                n += 1
    except OSError:
        pass
    r = guard.both(victim("write_file", os.path.join(fs.mount_point, "one_more"), 4096))
    incident_of(r, "disk_full", code=1)
    assert "inode" in screen(r) or "files" in screen(r), str(r)


def test_io_error_under_a_mapping(guard, loop):
    """The disk under the file system lost its end: within the size, room left, and still SIGBUS."""
    fs = loop("ext4", 64 << 20)
    path = os.path.join(fs.mount_point, "data.b2nd")
    with open(path, "wb") as f:
        for _ in range(48):
            f.write(os.urandom(1 << 20))
        os.fsync(f.fileno())
    fs.umount()
    whole = os.path.getsize(fs.image)
    os.truncate(fs.image, 20 << 20)
    device = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", fs.image],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.truncate(fs.image, whole)
    if device.returncode != 0:
        pytest.skip(f"no loop device with direct I/O: {device.stderr.decode()[:100]}")
    node = device.stdout.decode().strip()
    try:
        # The size of the device is that of the cut image now; grow it, then cut the image below it.
        subprocess.run(["losetup", "-c", node], check=True)
        done = subprocess.run(["mount", "-t", "ext4", "-o", "ro,noload", node, fs.mount_point],
                              stderr=subprocess.PIPE)
        if done.returncode != 0:
            pytest.skip(f"cannot mount: {done.stderr.decode()[:100]}")
        fs.mounted = True
        os.truncate(fs.image, 20 << 20)
        probe = guard.bare(victim("--api", "self", "read_mapped", path))
        if probe.rc != -BUS:
            pytest.skip(f"the loop device reads zeros past its end here (status {probe.rc})")
        r = guard.both(victim("read_mapped", path))
        incident_of(r, "io_error", ("certain", "likely"), signo=BUS)
        r = guard.both(victim("read_file", path))
        assert "Input/output error" in r.err
        incident_of(r, "io_error", ("certain", "likely", "possible"), code=1)
    finally:
        fs.umount()
        subprocess.run(["losetup", "-d", node], stderr=subprocess.DEVNULL)


# ---- look-alikes ---------------------------------------------------------------------------------
def test_handled_enospc_is_no_incident(guard, loop):
    fs = loop("ext4", 24 << 20)
    r = guard.both(victim("--ignore", "handled_write", os.path.join(fs.mount_point, "x")))
    assert r.rc == 0 and "handled 28" in r.out, str(r)
    assert_silent(r)


def test_handled_enospc_then_another_death(guard, loop, native):
    """A handled full disk does not explain a later segfault."""
    fs = loop("ext4", 24 << 20)
    script = ("import sys, runpy\n"
              f"sys.argv = ['x']\nsys.path.insert(0, {os.path.dirname(victim()[1])!r})\n"
              "import fault_victim as v, multiprocessing as mp\n"
              "def work():\n"
              f"    v.handled_write({fs.mount_point + '/x'!r})\n"
              "    v.segv_null()\n"
              "p = mp.get_context('fork').Process(target=work); p.start(); p.join()\n"
              "print('STATUS', p.exitcode)\n")
    r = guard.both([victim()[0], "-c", script])
    incident_of(r, "worker_segfault", signo=signal.SIGSEGV)


def test_full_disk_and_full_shm_are_told_apart(guard, loop, mounts):
    """/dev/shm is full as well, but the mapping that broke is on the disk."""
    fs = loop("ext4", 24 << 20)
    path = os.path.join(fs.mount_point, "cache.dat")
    r = guard.guarded(victim("sparse_mapped", path),
                      wrap=lambda cmd: ["unshare", "-m", "sh", "-c",
                                        'mount -t tmpfs -o size=1m tmpfs /dev/shm && '
                                        '{ dd if=/dev/zero of=/dev/shm/filler bs=4k count=240 '
                                        '2>/dev/null; exec "$@"; }', "sh", *cmd])
    incident_of(r, "disk_full", signo=BUS)


def test_tmpfs_elsewhere_is_a_disk(guard, base, mounts):
    """A full tmpfs that is not /dev/shm: --shm-size would not help."""
    place = os.path.join(base, "scratch")
    os.mkdir(place)
    r = guard.both(victim("sparse_mapped", place + "/cache", 4 << 20),
                   wrap=lambda cmd: ["unshare", "-m", "sh", "-c",
                                     f'mount -t tmpfs -o size=1m tmpfs {place} && exec "$@"', "sh",
                                     *cmd])
    incident_of(r, "disk_full", signo=BUS)
    assert "shm-size" not in screen(r)


def test_shm_of_a_trainer_is_still_shm(guard, mounts):
    """The other way round: SharedMemory by its path is shared memory."""
    r = guard.both(victim("sparse_mapped", "/dev/shm/psm_big", 4 << 20),
                   wrap=lambda cmd: in_shm("1m", cmd))
    incident_of(r, "shm_exhausted", signo=BUS)
