# SPDX-License-Identifier: MIT
"""What is told of /dev/shm and of rescue is true: whose files are left over, how much lived at a time, the
size that is advised; settings in the words that people use; the command's own manners."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import (SYSTEM_PYTHON, as_nobody, assert_silent, clean_env, execute, in_shm, screen,
                      victim)

RESCUE = {"NNGUARD_RESCUE": "shm"}


def own_pids(cmd):
    return ["unshare", "-p", "-f", "--mount-proc", *cmd]


# ---- nnguard clean ----------------------------------------------------------------------------------
SHARED = r"""
fd() { python3 -c 'import os, time
fd = os.open("/dev/shm/torch_%d_1_0" % os.getpid(), os.O_RDWR | os.O_CREAT, 0o600)
os.posix_fallocate(fd, 0, 12 << 20); print(flush=True); time.sleep(30)' & maker=$!; }
fd > /dev/null; sleep 1; touch -d yesterday /dev/shm/torch_*
unshare -p -f --mount-proc "$0" clean; echo "status $?"
unshare -p -f --mount-proc "$0" clean --yes; echo "status $?"
ls /dev/shm
unshare -p -f --mount-proc "$0" clean --yes --force; echo "status $?"
ls /dev/shm
kill $maker
"""


def test_clean_in_a_container_removes_nothing_of_another(guard, mounts):
    """A maker outside this pid namespace cannot be seen: its file is no leftover."""
    r = execute(in_shm("16m", ["bash", "-c", SHARED, guard.bin]),
                clean_env({"NNGUARD_LANG": "en", "NNGUARD_DIR": guard.new_dir()}))
    assert re.findall(r"^status (\d)", r.out, re.M) == ["1", "2", "0"], str(r)
    assert len(re.findall(r"^torch_\d+_1_0$", r.out, re.M)) == 1, str(r)
    assert "is gone" not in r.out and "is not seen from here" in r.out, str(r)
    assert any("--force" in line and "nothing is removed" in line for line in r.lines), str(r)


OUTSIDE = r"""
python3 -c 'import os, time
fd = os.open("/dev/shm/torch_%d_1_0" % os.getpid(), os.O_RDWR | os.O_CREAT, 0o600)
os.posix_fallocate(fd, 0, 12 << 20); time.sleep(40)' & maker=$!
sleep 12
unshare -p -f --mount-proc "$@"
kill $maker
"""
DIES = """
import os, multiprocessing as mp
def work():
    fd = os.open("/dev/shm/torch_%d_7_0" % os.getpid(), os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(fd, 0, 8 << 20)
p = mp.Process(target=work); p.start(); p.join()
import time; time.sleep(1); raise SystemExit(1)
"""


def test_the_file_of_another_container_is_not_called_a_leftover(guard, mounts):
    r = guard.guarded([sys.executable, "-c", DIES],
                      wrap=lambda c: in_shm("16m", ["bash", "-c", OUTSIDE, "sh", *c]), timeout=60)
    assert "/dev/shm" in screen(r), str(r)
    assert "clean" not in screen(r) and "gone" not in screen(r), str(r)


def test_clean_keeps_what_an_unseen_process_may_use(guard, mounts, public):
    """A process of this user that is not dumpable cannot be looked into: nothing is removed."""
    script = (r'''cd /dev/shm; head -c 5000 /dev/zero > torch_999999_1_1; chmod 600 torch_999999_1_1
python3 -c 'import ctypes, time; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); time.sleep(20)' & p=$!
sleep 1; "$0" clean --yes; echo "status $?"; ls; kill $p; sleep .5
"$0" clean --yes; echo "status $?"; ls''')
    r = execute(in_shm("2m", as_nobody(["bash", "-c", script, guard.bin])),
                clean_env({"NNGUARD_LANG": "en", "NNGUARD_DIR": public.home + "/d"}))
    assert re.findall(r"^status (\d)", r.out, re.M) == ["1", "0"], str(r)
    first, second = re.split(r"^status \d\n", r.out, flags=re.M)[:2]
    assert "kept" in first and "torch_999999_1_1\n" in second and "removed" in second, str(r)
    assert r.err.index("could not be looked into") >= 0, str(r)


def test_clean_lists_a_dead_link_of_rescue(guard, mounts):
    script = r'''cd /dev/shm; ln -s /proc/999999/fd/7 psm_dead; ln -s /proc/1/root psm_other
python3 -c 'import os, time
fd = os.memfd_create("nnguard-x"); os.dup2(fd, 9); os.symlink("/proc/%d/fd/9" % os.getpid(), "psm_live")
os.dup2(0, 8); os.symlink("/proc/%d/fd/8" % os.getpid(), "psm_no_memory"); time.sleep(20)' & p=$!
sleep 1; "$0" clean --yes; echo "status $?"; ls; kill $p'''
    r = execute(in_shm("2m", ["bash", "-c", script, guard.bin]),
                clean_env({"NNGUARD_LANG": "en", "NNGUARD_DIR": guard.new_dir()}))
    assert r.out.split("status 0\n")[1].split() == ["psm_live", "psm_other"], str(r)


def test_clean_into_a_pipe_keeps_its_lines_whole(guard, mounts):
    script = (r'cd /dev/shm; for i in $(seq 200); do echo x > sem.mp-$i; touch -d yesterday sem.mp-$i;'
              r' done; unshare -p -f --mount-proc "$0" clean 2>&1 | cat')
    r = execute(in_shm("8m", ["bash", "-c", script, guard.bin]),
                clean_env({"NNGUARD_LANG": "en", "NNGUARD_DIR": guard.new_dir()}))
    assert all(re.match(r"(/dev/shm/sem|nnguard: |200 left)", line) and "nnguard: " not in line[9:]
               for line in r.out.splitlines()), str(r)


def test_help_of_what_there_is_not(guard):
    for args, status in ((["--help", "bogus"], 2), (["--help", "monitor"], 0), (["monitor", "-h"], 0),
                         (["monitor", "--help"], 0), (["--help", "clean"], 0), (["--help"], 0)):
        r = execute([guard.bin, *args], clean_env())
        assert r.rc == status and bool(r.out) == (status == 0), f"{args}: {r}"
    assert "--force" in execute([guard.bin, "clean", "--help"], clean_env()).out
