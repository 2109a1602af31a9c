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


# ---- how much lived at a time, and the size that is advised ------------------------------------------
SCRIPTS = {
    "all at once": """
import os, mmap, sys
L = []
for i in range(6):
    fd = os.open(f"/dev/shm/psm_k{i}", os.O_RDWR | os.O_CREAT, 0o600); os.ftruncate(fd, 5 << 20)
    m = mmap.mmap(fd, 5 << 20); m[:] = b"x" * (5 << 20); os.close(fd); L.append(m)
    os.unlink(f"/dev/shm/psm_k{i}")
""",
    "grown by write": """
import os
fd = os.open("/dev/shm/psm_g", os.O_RDWR | os.O_CREAT, 0o600); os.unlink("/dev/shm/psm_g")
for i in range(64): os.write(fd, b"x" * (1 << 20))
""",
    "small pieces": """
import os
fds = []
for i in range(1500):
    fd = os.open(f"/dev/shm/psm_{i}", os.O_RDWR | os.O_CREAT, 0o600); os.unlink(f"/dev/shm/psm_{i}")
    os.ftruncate(fd, 20000); os.pwrite(fd, b"x" * 20000, 0); fds.append(fd)
""",
    "in workers": """
import os, multiprocessing as mp
def work(q, ev):
    for i in range(20):
        fd = os.open(f"/dev/shm/torch_{os.getpid()}_{i}_0", os.O_RDWR | os.O_CREAT, 0o600)
        os.unlink(f"/dev/shm/torch_{os.getpid()}_{i}_0"); os.posix_fallocate(fd, 0, 1 << 20)
    q.put(1); ev.wait(20)
c = mp.get_context("fork"); q, ev = c.SimpleQueue(), c.Event()
P = [c.Process(target=work, args=(q, ev)) for _ in range(3)]
for p in P: p.start()
for p in P: q.get()
ev.set()
for p in P: p.join()
assert all(p.exitcode == 0 for p in P)
"""}
LIVES = {"all at once": 30, "grown by write": 63, "small pieces": 27, "in workers": 59}
UNIT = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30}


def advised(r):
    sizes = re.findall(r"--shm-size=(\w+)|remount,size=(\w+)", screen(r))
    assert len(set(sizes)) == 1, str(r)
    return sizes[0][0] or sizes[0][1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_lived_at_a_time_is_a_bound_and_the_advised_size_suffices(guard, mounts, name):
    cmd = [sys.executable, "-c", SCRIPTS[name] + "\nprint('done')\n"]
    r = guard.guarded(cmd, env=RESCUE, wrap=lambda c: in_shm("1m", c))
    assert "done" in r.out, str(r)
    told = re.search(r"at most ([\d.]+) (\w+) at a time", re.sub(r"\s+", " ", screen(r)))
    assert told and float(told.group(1)) * (1 << UNIT[told.group(2)]) >= LIVES[name] << 20, str(r)
    assert "workers need" not in screen(r), str(r)
    assert "done" in execute(in_shm(advised(r), cmd), clean_env()).out, str(r)


def test_what_lived_at_a_time_of_a_long_run_is_no_sum(guard, mounts):
    """40 pieces of 2 MiB one after another: never more than a few at a time."""
    script = ("import os, time\n"
              "for i in range(40):\n"
              "    fd = os.open('/dev/shm/psm_one', os.O_RDWR | os.O_CREAT)\n"
              "    os.unlink('/dev/shm/psm_one'); os.posix_fallocate(fd, 0, 2 << 20); os.close(fd)\n"
              "    time.sleep(.1)\n"
              "import ctypes; ctypes.string_at(0)\n")
    r = guard.guarded([sys.executable, "-c", script], env=RESCUE, wrap=lambda c: in_shm("1m", c))
    rescue = r.report["rescue"]
    assert rescue["bytes"] == 80 << 20 and 2 << 20 <= rescue["peak_bytes"] <= 24 << 20, rescue


POOL = """
from multiprocessing import shared_memory
L = [shared_memory.SharedMemory(create=True, size=900 << 10) for _ in range(200)]
for i, s in enumerate(L): s.buf[:] = bytes([i % 251]) * (900 << 10)
print("filled")
for s in L: s.close(); s.unlink()
"""


def test_a_pool_that_is_made_first_and_filled_later(guard, mounts):
    """What counts is what was given, not what happened to be used when it ran out."""
    cmd = [sys.executable, "-c", POOL]
    r = guard.guarded(cmd, wrap=lambda c: in_shm("64m", c))
    assert r.rc == -signal.SIGBUS, str(r)
    assert "no worker" not in screen(r) and "1 processes" not in screen(r), str(r)
    assert "filled" in execute(in_shm(advised(r), cmd), clean_env()).out, str(r)


# ---- settings in people's words ----------------------------------------------------------------------
CRASH = [sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"]
QUIET = [sys.executable, "-c", "import os; print(os.environ.get('NNGUARD_RUN'))"]


@pytest.mark.parametrize("word", ["0", "off", "no", "false", "OFF", "False", "none"])
def test_off_in_any_word(guard, word):
    r = guard.guarded(QUIET, env={"NNGUARD": word})
    assert r.out == "None\n" and not r.err and not r.runs, str(r)


@pytest.mark.parametrize("word", ["1", "on", "yes", "true", ""])
def test_on_in_any_word(guard, word):
    r = guard.guarded(QUIET, env={"NNGUARD": word})
    assert "/journal" in r.out and not r.err, str(r)


@pytest.mark.parametrize("word", ["1", "yes", "true", "on", "2"])
def test_quiet_in_any_word(guard, word):
    r = guard.guarded(CRASH, env={"NNGUARD_QUIET": word})
    assert not r.lines and r.incidents, str(r)


@pytest.mark.parametrize("word", ["0", "off", "no", "false"])
def test_no_monitor_in_any_word(guard, word):
    r = guard.guarded(CRASH, env={"NNGUARD_MONITOR": word})
    assert not r.reports and len(r.runs) == 1, str(r)


@pytest.mark.parametrize("word,coloured", [("yes", True), ("always", True), ("1", True),
                                           ("no", False), ("never", False), ("auto", False)])
def test_colour_in_any_word(guard, word, coloured):
    r = guard.guarded(CRASH, env={"NNGUARD_COLOR": word})
    assert ("\x1b[" in r.err) == coloured and "NNGUARD_COLOR" not in r.err, str(r)


@pytest.mark.parametrize("name", ["NNGUARD", "NNGUARD_QUIET", "NNGUARD_MONITOR", "NNGUARD_COLOR",
                                  "NNGUARD_LANG"])
def test_a_word_that_is_none_is_said_once(guard, name):
    script = ("import os, subprocess, sys\n"
              "for i in range(2): subprocess.run([sys.executable, '-c', 'pass'])\n"
              "if os.fork() == 0: os._exit(0)\nos.wait()\n")
    r = guard.guarded([sys.executable, "-c", script], env={name: "fr"})
    assert [name + " knows" in line for line in r.lines] == [True] and r.rc == 0, str(r)


def test_blanks_between_globs(guard):
    r = guard.guarded(["bash", "-c", "echo $NNGUARD_RUN"], env={"NNGUARD_MATCH": "xx, bash , zz"})
    assert "/journal" in r.out, str(r)


# ---- folders -----------------------------------------------------------------------------------------
def test_a_home_that_does_not_exist_is_not_made(guard, mounts, tmp_path):
    script = 'mount -t tmpfs -o ro none /tmp; mount -t tmpfs -o ro none /var/tmp; exec "$@"'
    home, here = f"{guard.base}/no/such/home", f"{guard.base}/here"
    os.mkdir(here)
    env = clean_env({"HOME": home, "NNGUARD_LANG": "en"})
    lib = guard.lib
    if lib.startswith("/tmp/"):
        pytest.skip("the build lies in /tmp")
    keep = f'mkdir -p /run/nng-told-$$; mount --bind "{guard.base}" /run/nng-told-$$; '
    r = execute(["unshare", "-m", "sh", "-c",
                 keep + 'cd /run/nng-told-$$/here; export HOME=/run/nng-told-$$/no/such/home; ' + script,
                 "sh", "env", f"LD_PRELOAD={lib}", SYSTEM_PYTHON, "-c", "pass"], env)
    for name in os.listdir("/run"):
        if name.startswith("nng-told-"):
            os.rmdir("/run/" + name)
    assert r.rc == 0 and not os.path.exists(f"{guard.base}/no"), str(r)


def test_no_folder_is_left_where_nothing_can_be_kept(guard, mounts):
    """Room for folders, none for a journal: the folders that were made in vain go again."""
    script = ('mount -t tmpfs -o size=64k none /tmp; mount -t tmpfs -o size=64k none /var/tmp; '
              'mount -t tmpfs -o size=64k none /mnt; cd /mnt; export HOME=/mnt/none; "$@"; sleep .3; '
              'find /tmp /var/tmp /mnt -mindepth 1')
    r = execute(["unshare", "-m", "sh", "-c", script, "sh", "env", f"LD_PRELOAD={guard.lib}",
                 SYSTEM_PYTHON, "-c", "pass"], clean_env())
    assert "nnguard" not in r.out, str(r)


def test_children_of_another_user_say_nothing_of_the_folder(guard):
    script = ("import subprocess\n"
              "for i in range(3): subprocess.run(['/usr/bin/python3', '-c', 'pass'], user=65533, "
              "group=65533, extra_groups=[])\n")
    r = guard.guarded([sys.executable, "-c", script])
    with_nothing = [line for line in r.lines]
    subprocess.run(["rmdir", "/tmp/nnguard-65533"], stderr=subprocess.DEVNULL)
    assert r.rc == 0 and not with_nothing, str(r)


# ---- fixes by place ----------------------------------------------------------------------------------
FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); fs = []
while True: fs.append(open("/etc/passwd"))
"""


@pytest.mark.parametrize("env,fix", [
    ({"container": "podman"}, r"podman run --ulimit nofile=65536"),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, r"Fix +LimitNOFILE=65536"),
    ({"SLURM_JOB_ID": "7"}, r"Fix +LimitNOFILE=65536")])
def test_above_the_hard_limit_the_fix_is_the_admins(guard, env, fix):
    r = guard.guarded([sys.executable, "-c", FILES], env=env)
    assert re.search(fix, re.sub(r"\s+", " ", screen(r))), str(r)
    assert "Fix ulimit" not in re.sub(r"\s+", " ", screen(r)), str(r)
