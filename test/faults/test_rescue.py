# SPDX-License-Identifier: MIT
"""Rescue: what does not fit into /dev/shm gets ordinary memory, and the program does not notice. The
measure is always the same program in a /dev/shm that is large enough, without us."""
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from conftest import (HERE, SYSTEM_PYTHON, as_nobody, assert_silent, clean_env, execute, in_shm, screen,
                      torch_python)

VICTIM = os.path.join(HERE, "victims", "rescue_victim.py")
RESCUE = {"NNGUARD_RESCUE": "shm"}
METHODS = ["fork", "spawn", "forkserver"]
FIRST = "/dev/shm is too small"
LAST = "/dev/shm was too small"


def victim(*args, python=None):
    return [python or sys.executable, VICTIM, *[str(a) for a in args]]


def full(cmd, size="1m"):
    """A /dev/shm in which not a page is free."""
    return ["unshare", "-m", "sh", "-c",
            f'mount -t tmpfs -o size={size},mode=1777 tmpfs /dev/shm && '
            '{ dd if=/dev/zero of=/dev/shm/filler bs=4k 2>/dev/null; exec "$@"; }', "sh", *cmd]


PLACES = {"1 MiB": lambda cmd: in_shm("1m", cmd), "0 free": full}


def rescued(guard, cmd, place, bare, spoken=True, timeout=90, **kwargs):
    r = guard.guarded(cmd, env=RESCUE, wrap=PLACES[place], timeout=timeout, **kwargs)
    assert r.rc == bare.rc == 0, f"{r}\n== bare {bare}"
    assert r.out == bare.out, f"{r}\n== bare {bare}"
    assert not r.runs, f"left behind: {r.runs}"
    assert not r.left, r.left
    said = screen(r)
    assert (FIRST in said and LAST in said) or not spoken, str(r)
    assert said.count(FIRST) <= 1 and said.count(LAST) <= 1, str(r)
    return r


def same(guard, *args, python=None, spoken=("1 MiB", "0 free"), timeout=90):
    cmd = victim(*args, python=python)
    bare = guard.bare(cmd, wrap=lambda c: in_shm("1g", c), timeout=timeout)
    for place in PLACES:
        rescued(guard, cmd, place, bare, spoken=place in spoken, timeout=timeout)


# ---- only shared memory -----------------------------------------------------------------------------
def test_a_plain_file_fails_as_before(guard, mounts):
    """Any program may open it by its name; half a file without an error is worse than ENOSPC."""
    code = ("import os, subprocess\n"
            "try:\n"
            "    with open('/dev/shm/plain', 'wb', buffering=0) as f:\n"
            "        for _ in range(4): f.write(b'x' * (1 << 20))\n"
            "except OSError as e: print('errno', e.errno)\n"
            "n = os.path.getsize('/dev/shm/plain')\n"
            "print(n == int(subprocess.check_output(['wc', '-c', '/dev/shm/plain']).split()[0]))\n")
    cmd = [sys.executable, "-c", code]
    bare = guard.bare(cmd, wrap=PLACES["1 MiB"])
    r = guard.guarded(cmd, env=RESCUE, wrap=PLACES["1 MiB"])
    assert r.rc == bare.rc == 0 and r.out == bare.out and "True" in r.out, f"{r}\n== bare {bare}"


# ---- the program does not notice --------------------------------------------------------------------
@pytest.mark.parametrize("how", ["fallocate", "touch"])
def test_a_segment_looks_the_same(guard, mounts, how):
    """fstat, mode, size, mmap, dup, /dev/fd, opened by name, passed on, resized, unlinked."""
    same(guard, "views", how)


@pytest.mark.parametrize("what", [("views",), ("shared_memory", "spawn")])
def test_as_an_ordinary_user(guard, mounts, public, what):
    script = shutil.copy(VICTIM, os.path.dirname(public.victim))
    os.chmod(script, 0o644)
    cmd = [SYSTEM_PYTHON, script, *what]
    env = {**RESCUE, "HOME": public.home}
    bare = guard.bare(cmd, wrap=lambda c: in_shm("1g", as_nobody(c)), cwd=public.home)
    r = guard.guarded(cmd, env=env, wrap=lambda c: in_shm("1m", as_nobody(c)), cwd=public.home)
    assert r.rc == bare.rc == 0 and r.out == bare.out, f"{r}\n== bare {bare}"
    assert FIRST in screen(r) and not r.runs, str(r)


def test_a_name_is_used_again(guard, mounts):
    same(guard, "reused")


def test_a_file_grows_by_write(guard, mounts):
    same(guard, "written")


@pytest.mark.parametrize("how", ["dup", "open", "mmap", "fork", "fork_mmap"])
def test_a_file_that_others_have_is_left_alone(guard, mounts, how):
    """A copy would be one that they do not see: it fails as without us, and their content is whole."""
    r = guard.both(victim("shared_file", how), env=RESCUE, wrap=PLACES["1 MiB"], compare=False)
    assert r.out == r.bare.out and r.out.startswith("ENOSPC"), f"{r}\n== bare {r.bare}"


@pytest.mark.parametrize("method", METHODS)
def test_shared_memory_by_name(guard, mounts, method):
    """Attached by name in a worker; made by a worker and attached after its end."""
    same(guard, "shared_memory", method)


@pytest.mark.parametrize("method", METHODS)
def test_arrays(guard, mounts, method):
    """They fall back to a file elsewhere by themselves; the semaphores do not."""
    same(guard, "arrays", method, spoken=("0 free",))


@pytest.mark.parametrize("method", METHODS)
def test_semaphores(guard, mounts, method):
    same(guard, "semaphores", method, spoken=("0 free",))


def test_semaphores_by_name(guard, mounts):
    same(guard, "named_semaphore", spoken=("0 free",))


@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
def test_training_is_bit_identical(guard, mounts, strategy):
    """An old torch; a new one and the other start methods in test/trainer."""
    same(guard, "train", strategy, "fork", 1, 2, python=torch_python("old"), timeout=120)


def in_container(guard, runc, cmd, shm):
    bare = guard.bare(cmd, wrap=lambda c: in_shm("1g", c), timeout=90)
    directory = guard.new_dir()
    env = {**clean_env(RESCUE), "LD_PRELOAD": guard.lib, "NNGUARD_DIR": directory, "HOME": "/tmp",
           "NNGUARD_LANG": "en"}
    os.makedirs(directory, mode=0o700)
    r = execute(runc.wrap(cmd, env, shm=shm, writable=(directory,)), timeout=120)
    assert r.rc == 0 and r.out.split() == bare.out.split(), f"{r}\n== bare {bare}"
    assert FIRST in r.err and LAST in r.err, str(r)
    return r


def test_in_a_container_with_dockers_default(guard, mounts, runc):
    """64 MiB, the trainer is PID 1."""
    cmd = victim("train", "file_descriptor", "fork", 1, 3, 6, python=torch_python("new"))
    assert "64.0 MiB" in in_container(guard, runc, cmd, "65536k").err


def test_names_in_a_container(guard, mounts, runc):
    in_container(guard, runc, victim("shared_memory", "spawn", python=SYSTEM_PYTHON), "1m")


# ---- while there is room ----------------------------------------------------------------------------
def test_nothing_is_touched_while_there_is_room(guard, mounts):
    cmd = ["strace", "-f", "-qq", "-e", "trace=memfd_create", "-o", f"{guard.base}/trace",
           *victim("views")]
    if subprocess.run(["which", "strace"], stdout=subprocess.DEVNULL).returncode:
        pytest.skip("strace is not installed")
    r = guard.guarded(victim("views"), env=RESCUE, wrap=lambda c: in_shm("1g", c))
    assert r.rc == 0
    assert_silent(r)
    execute(in_shm("1g", cmd), clean_env({**RESCUE, "NNGUARD_DIR": guard.new_dir()}))
    r = execute(in_shm("1g", ["env", f"LD_PRELOAD={guard.lib}", *cmd]),
                clean_env({**RESCUE, "NNGUARD_DIR": guard.new_dir()}))
    with open(f"{guard.base}/trace", encoding="ascii") as f:
        assert "nnguard" not in f.read()


# ---- many, and all at once --------------------------------------------------------------------------
@pytest.mark.parametrize("named", [0, 1])
def test_nothing_is_left_of_ten_thousand(guard, mounts, named):
    r = guard.guarded(victim("many", 10000, named), env=RESCUE, wrap=PLACES["1 MiB"], timeout=120)
    assert r.rc == 0 and "descriptors 0 memory True names True" in r.out, str(r)
    monitor = re.search(r"^MONITOR (\d+) (\d+)$", r.out, re.M)
    assert monitor and int(monitor.group(1)) < 16 and int(monitor.group(2)) == 0, str(r)
    assert "10000 pieces" in screen(r).replace("\n", " ") or "10,000" in screen(r), str(r)


@pytest.mark.parametrize("size,threads", [(900000, 2), (3000000, 2), (4000000, 1), (300000, 4)])
def test_workers_race_for_the_same_room(guard, mounts, size, threads):
    """Sized by ftruncate, then touched: without us at least one of them dies of SIGBUS."""
    cmd = victim("race", 8, 25, size, threads)
    r = guard.guarded(cmd, env=RESCUE, wrap=lambda c: in_shm("16m", c), timeout=90)
    assert f"STATUS {[0] * 8}" in r.out, str(r)
    assert not r.incidents, str(r)


def test_the_race_is_real(guard, mounts):
    r = guard.bare(victim("race", 8, 25, 3000000, 2), wrap=lambda c: in_shm("16m", c), timeout=90)
    assert "-7" in r.out, str(r)


# ---- memory is short too ----------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["fallocate", "touch"])
def test_refused_where_the_cgroup_is_too_tight(guard, mounts, memory_cgroup, how):
    """An ENOSPC is never traded for an out-of-memory kill: as without us, and a line with numbers."""
    memory_cgroup.limit_memory(200 << 20)
    cmd = victim("tight", 180 << 20, how)
    bare = guard.bare(cmd, wrap=lambda c: in_shm("1m", c))
    r = guard.guarded(cmd, env=RESCUE, wrap=lambda c: memory_cgroup.wrap(in_shm("1m", c)))
    assert r.rc == bare.rc == (0 if how == "fallocate" else -signal.SIGBUS), f"{r}\n{bare}"
    assert r.statuses() == bare.statuses()
    # Anywhere in a line: faulthandler writes its own in pieces, at the same time.
    said = r.err.partition("nnguard: rescue refused")[2].partition("\n")[0]
    assert "180.0 MiB" in said and "200.0 MiB" in said, str(r)
    assert memory_cgroup.kills() == 0


def test_granted_where_the_cgroup_has_room(guard, mounts, memory_cgroup):
    memory_cgroup.limit_memory(300 << 20)
    r = guard.guarded(victim("tight", 100 << 20, "touch"), env=RESCUE,
                      wrap=lambda c: memory_cgroup.wrap(in_shm("1m", c)))
    assert "STATUS filled" in r.out and "refused" not in r.err, str(r)


def test_a_crowd_in_a_tight_cgroup_is_not_killed(guard, mounts, memory_cgroup):
    """Eight ask at the same moment for more than there is in all: none is killed for it."""
    memory_cgroup.limit_memory(400 << 20)
    script = ("import os, sys\nsys.argv = ['', 'tight', str(100 << 20), 'fallocate']\n"
              f"sys.path.insert(0, {os.path.dirname(VICTIM)!r})\nimport rescue_victim as v\n"
              "kids = []\n"
              "for n in range(8):\n"
              "    kid = os.fork()\n"
              "    if kid == 0:\n"
              "        fd = os.open(f'/dev/shm/torch_{os.getpid()}_1_1', os.O_RDWR | os.O_CREAT)\n"
              "        os.unlink(f'/dev/shm/torch_{os.getpid()}_1_1')\n"
              "        try:\n"
              "            os.posix_fallocate(fd, 0, 100 << 20)\n"
              "        except OSError as error:\n"
              "            os._exit(error.errno)\n"
              "        import time; time.sleep(2)\n"
              "        os._exit(0)\n"
              "    kids.append(kid)\n"
              "print('STATUS', sorted(os.waitpid(kid, 0)[1] >> 8 for kid in kids))\n")
    r = guard.guarded([sys.executable, "-c", script], env=RESCUE,
                      wrap=lambda c: memory_cgroup.wrap(in_shm("1m", c)))
    codes = re.search(r"STATUS \[(.*)\]", r.out).group(1).split(", ")
    assert set(codes) == {"0", "28"} and 1 <= codes.count("0") <= 3, str(r)
    assert memory_cgroup.kills() == 0, str(r)


# ---- what the user is told --------------------------------------------------------------------------
def test_report_tells_of_the_rescue(guard, mounts):
    """A run with rescue that then fails for another reason."""
    script = ("import os\nfd = os.open('/dev/shm/torch_1_1_1', os.O_RDWR | os.O_CREAT)\n"
              "os.posix_fallocate(fd, 0, 8 << 20)\nos.unlink('/dev/shm/torch_1_1_1')\n"
              "import ctypes; ctypes.string_at(0)\n")
    r = guard.guarded([sys.executable, "-c", script], env=RESCUE, wrap=PLACES["1 MiB"])
    assert r.rc == -signal.SIGSEGV
    rescue = r.report["rescue"]
    assert rescue["segments"] == 1 and rescue["bytes"] == rescue["peak_bytes"] == 8 << 20, rescue
    assert LAST in screen(r), str(r)


def test_report_without_rescue_says_null_and_names_the_switch(guard, mounts):
    r = guard.guarded(victim("tight", 8 << 20, "touch"), wrap=PLACES["1 MiB"])
    assert r.rc == -signal.SIGBUS and r.report["rescue"] is None
    fixes = r.report["incidents"][0]["fixes"]
    switch = [fix for fix in fixes if "NNGUARD_RESCUE=shm" in (fix["command"] or "")]
    assert switch and "memory" in switch[0]["cost"]["en"], fixes
    assert "NNGUARD_RESCUE=shm" in screen(r), str(r)


def test_chinese(guard, mounts):
    r = guard.guarded(victim("tight", 8 << 20, "touch"), env={**RESCUE, "NNGUARD_LANG": "zh"},
                      wrap=PLACES["1 MiB"])
    assert r.rc == 0 and "普通内存" in screen(r) and "ordinary" not in screen(r), str(r)


def test_without_a_monitor(guard, mounts):
    """Nobody holds what has a name: it fails as without us. What has none is rescued."""
    script = ("import os, tempfile\n"
              "with tempfile.TemporaryFile(dir='/dev/shm') as f:\n"
              "    os.posix_fallocate(f.fileno(), 0, 8 << 20); print('unnamed')\n"
              "fd = os.open('/dev/shm/torch_1_1_1', os.O_RDWR | os.O_CREAT)\n"
              "try: os.posix_fallocate(fd, 0, 8 << 20)\n"
              "except OSError as e: print('named', e.errno)\n")
    r = guard.guarded([sys.executable, "-c", script], env={**RESCUE, "NNGUARD_MONITOR": "0"},
                      wrap=PLACES["1 MiB"])
    assert r.rc == 0 and r.out == "unnamed\nnamed 28\n", str(r)
    assert FIRST in screen(r), str(r)


def test_a_name_left_behind_goes_with_the_run(guard, mounts):
    """Its content is gone with the monitor: an empty file would only mislead."""
    script = 'env LD_PRELOAD="$0" "$@"; sleep 4; ls /dev/shm; echo end'
    r = execute(in_shm("1m", ["sh", "-c", script, guard.lib, *victim("leave", 4 << 20)]),
                clean_env({**RESCUE, "NNGUARD_DIR": guard.new_dir()}), timeout=30)
    assert r.out == "['psm_left']\nend\n", str(r)


def test_descriptors(guard):
    cmd = ["bash", "-c", 'ulimit -Hn 4000; ulimit -Sn 100; exec "$@"', "sh"]
    for value, expect in (("fd", True), ("all", True), ("shm,fd", True), ("shm", False)):
        r = guard.guarded(victim("limits"), env={"NNGUARD_RESCUE": value}, wrap=lambda c: [*cmd, *c])
        assert f"soft is hard {expect}" in r.out, f"{value}: {r}"
        assert_silent(r)


def test_a_wrong_word_is_said(guard):
    r = guard.guarded(victim("limits"), env={"NNGUARD_RESCUE": "shn"})
    assert any("NNGUARD_RESCUE" in line for line in r.lines) and r.rc == 0, str(r)


# ---- nnguard clean ----------------------------------------------------------------------------------
CLEAN = r"""
cd /dev/shm
put() { head -c "$2" /dev/zero > "$1"; touch -d "${3:-now}" "$1"; }
put torch_999999_1_1 100000
put torch_$$_1_1 5000 yesterday
put psm_new 5000
put psm_old 50000 '2 hours ago'
put psm_open 9 yesterday; exec 9< psm_open
put psm_mapped 4096 yesterday
put somebodys_file 99 yesterday
put psm_alien 99 yesterday; chown 65534 psm_alien
put sem.mp-abcdef 32 yesterday
mkdir joblib_memmapping_folder_999998_x; put joblib_memmapping_folder_999998_x/1.pkl 9000 yesterday
python3 -c 'import mmap, os, time
fd = os.open("psm_mapped", os.O_RDWR); m = mmap.mmap(fd, 4096); os.close(fd)
print(flush=True); time.sleep(20)' > /dev/shm/../null 9<&- & mapper=$!
sleep 1
"$0" clean; echo "status $?"
"$0" clean --yes; echo "status $?"
"$0" clean; echo "status $?"
ls
kill $mapper
"""


def test_clean(guard, mounts):
    r = execute(in_shm("2m", ["bash", "-c", CLEAN, guard.bin]),
                clean_env({"NNGUARD_LANG": "en", "NNGUARD_DIR": guard.new_dir()}))
    first, second, third = re.split(r"^status \d\n", r.out, flags=re.M)[:3]
    assert re.findall(r"^status (\d)", r.out, re.M) == ["1", "0", "0"], str(r)
    gone = ["joblib_memmapping_folder_999998_x", "psm_old", "sem.mp-abcdef", "torch_999999_1_1"]
    for text in (first, second):
        assert sorted(re.findall(r"^/dev/shm/(\S+)", text, re.M)) == gone, str(r)
    assert "52.0 KiB" in first and "pid 999999 is gone" in first and "4 left over" in first
    assert second.count("removed") == 5 and "nothing" in third
    left = r.out.rsplit("status 0\n", 1)[1].split()
    assert sorted(re.sub(r"torch_\d+_", "torch_N_", name) for name in left) == \
        ["psm_alien", "psm_mapped", "psm_new", "psm_open", "somebodys_file", "torch_N_1_1"], str(r)


def test_clean_leaves_a_rescued_name_of_a_live_run(guard, mounts):
    script = f"""
import os, subprocess, sys
fd = os.open("/dev/shm/psm_mine", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, 8 << 20)
os.utime("/dev/shm/psm_mine", (1, 1))
os.close(fd)
print(subprocess.run([{guard.bin!r}, "clean", "--yes"], stdout=subprocess.PIPE, text=True).stdout)
print(os.listdir("/dev/shm"))
os.unlink("/dev/shm/psm_mine")
"""
    r = guard.guarded([sys.executable, "-c", script], env=RESCUE, wrap=PLACES["1 MiB"])
    assert "nothing is left over" in r.out and "['psm_mine']" in r.out, str(r)
