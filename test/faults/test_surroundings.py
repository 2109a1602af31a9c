# SPDX-License-Identifier: MIT
"""Bad surroundings: folders that cannot be used, disks that are full, no /proc, no ptrace, odd
children, odd descriptors, PID 1. The program must live and end as without us; what can be said is
said."""
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading

import pytest

from conftest import (as_nobody, assert_silent, check_report, clean_env, execute, incident_of,
                      need_root, program, screen, victim, with_limits, LIB, PREFIX, SYSTEM_PYTHON)

SEGV = signal.SIGSEGV


# ---- the program nnguard -------------------------------------------------------------------------
def test_no_monitor_beside_the_library(guard, base):
    """One line at a death, and `report` later."""
    place = os.path.join(base, "alone")
    os.mkdir(place)
    guard.lib = shutil.copy(LIB, place)
    r = guard.both(victim("segv_null"), env={"PATH": "/usr/bin:/bin"})
    assert len(r.lines) >= 1 and len(r.lines) <= 3, str(r)
    assert len(r.runs) == 1, str(r)
    shown = guard.nnguard("report", directory=r.dir)
    assert shown.rc == 0 and "SIGSEGV" in shown.out, str(shown)
    as_json = guard.nnguard("report", "--json", directory=r.dir)
    report = json.loads(as_json.out)
    check_report(report)
    assert report["incidents"][0]["cause"] == "worker_segfault", as_json.out


def test_no_monitor_and_a_healthy_run(guard, base):
    place = os.path.join(base, "alone")
    os.mkdir(place)
    guard.lib = shutil.copy(LIB, place)
    r = guard.both([sys.executable, "-c", "print(1)"], env={"PATH": "/usr/bin:/bin"})
    assert_silent(r)


def test_record_only(guard):
    """NNGUARD_MONITOR=0: no word at the death, the journal stays, report tells."""
    r = guard.both(victim("segv_null"), env={"NNGUARD_MONITOR": "0"})
    assert len(r.runs) == 1, str(r)
    shown = guard.nnguard("report", directory=r.dir)
    assert shown.rc == 0 and "SIGSEGV" in shown.out, str(shown)


def test_a_monitor_that_is_no_program(guard, base):
    """A broken nnguard beside the library: the run does not care."""
    place = os.path.join(base, "broken")
    os.mkdir(place)
    guard.lib = shutil.copy(LIB, place)
    with open(os.path.join(place, "nnguard"), "w", encoding="ascii") as f:
        f.write("not a program\n")
    os.chmod(os.path.join(place, "nnguard"), 0o755)
    r = guard.both(victim("segv_null"))
    assert r.seconds < r.bare.seconds + 3, str(r)


# ---- NNGUARD_DIR ---------------------------------------------------------------------------------
def elsewhere(guard, r):
    """Where the report of r went: any path named on the screen."""
    for line in r.lines:
        for word in line.replace(",", " ").split():
            if word.endswith("report.txt") and os.path.exists(word):
                return word
    return None


def clean_elsewhere(path):
    if path:
        run = os.path.dirname(os.path.realpath(path))
        parent = os.path.dirname(run)
        shutil.rmtree(run, ignore_errors=True)
        link = os.path.join(parent, "latest")
        if os.path.islink(link) and not os.path.exists(link):
            os.unlink(link)


@pytest.mark.parametrize("kind", ["unwritable", "file", "symlink", "foreign", "devshm", "missing_parent"])
def test_bad_directory(guard, base, kind):
    bad = os.path.join(base, "bad")
    if kind == "unwritable":
        bad = "/proc/nnguard-cannot-be-here"
    elif kind == "file":
        with open(bad, "w", encoding="ascii") as f:
            f.write("a file\n")
    elif kind == "symlink":
        os.mkdir(os.path.join(base, "target"), 0o777)
        os.symlink(os.path.join(base, "target"), bad)
    elif kind == "foreign":
        need_root()
        os.mkdir(bad, 0o700)
        os.chown(bad, 65534, 65534)
    elif kind == "devshm":
        bad = f"/dev/shm/nngt-{os.getpid()}"
    elif kind == "missing_parent":
        bad = os.path.join(base, "made", "with", "parents")
    r = guard.both(victim("segv_null"), env={"NNGUARD_DIR": bad}, cwd=base)
    path = elsewhere(guard, r)
    try:
        assert "SIGSEGV" in screen(r), str(r)
        if kind == "missing_parent":
            incident_of(r, "worker_segfault", signo=SEGV)
            assert stat.S_IMODE(os.stat(bad).st_mode) == 0o700
            return
        assert path, f"no log was named\n{r}"
        assert not os.path.realpath(path).startswith("/dev/shm")
        assert not path.startswith(bad + "/"), str(r)
        if kind == "foreign":
            assert os.listdir(bad) == []
        if kind == "symlink":
            assert os.listdir(os.path.join(base, "target")) == []
        if kind == "devshm":
            assert not os.path.exists(bad)
    finally:
        clean_elsewhere(path)
        if kind == "devshm":
            shutil.rmtree(bad, ignore_errors=True)


def test_no_directory_at_all(guard, public):
    """An ordinary user who may write nowhere: a memfd, one line that says so, and the words."""
    place = os.path.dirname(public.victim)
    shut = ('mount --bind "$0" /mnt && mount -t tmpfs -o mode=755 tmpfs /tmp && '
            'mount -t tmpfs -o mode=755 tmpfs /var/tmp && cd / && exec "$@"')
    guard.lib = "/mnt/libnnguard.so"
    r = guard.both(victim("segv_null", python=SYSTEM_PYTHON, script="/mnt/fault_victim.py"), cwd="/",
                   env={"NNGUARD_DIR": "/proc/no", "HOME": "/proc", "TMPDIR": None,
                        "XDG_STATE_HOME": None},
                   wrap=lambda cmd: ["unshare", "-m", "sh", "-c", shut, place, *as_nobody(cmd)])
    assert "SIGSEGV" in screen(r), str(r)
    assert "details:" not in screen(r), f"a log where none can be\n{r}"
    assert "no folder" in screen(r), str(r)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_journal_on_a_full_disk(guard, loop, kind):
    """The disk is full from the start: the journal goes elsewhere or nowhere, the run goes on."""
    fs = loop(kind, (24 if kind == "ext4" else 128) << 20)
    fs.fill()
    r = guard.both(victim("segv_null"), env={"NNGUARD_DIR": os.path.join(fs.mount_point, "ng")},
                   cwd=fs.mount_point)
    assert "SIGSEGV" in screen(r), str(r)
    clean_elsewhere(elsewhere(guard, r))


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_disk_fills_up_while_we_record(guard, loop, kind):
    """Our own mapping must not kill anyone: on copy-on-write a fallocated page can still fault."""
    fs = loop(kind, (24 if kind == "ext4" else 128) << 20)
    path = os.path.join(fs.mount_point, "filler")
    script = f"""
import ctypes, os, subprocess, sys, multiprocessing as mp
fd = os.open({path!r}, os.O_WRONLY | os.O_CREAT)
size = 1 << 20
while size >= 512:
    try: os.write(fd, b"x" * size)
    except OSError: size //= 2
try: os.fsync(fd)
except OSError: pass
def work(): os._exit(0)
for n in range(400):                       # birth, exit, kill: records all of them
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    os.kill(os.getpid(), 0)
ctypes.CDLL(None).syncfs(fd)               # of this file system: sync() waits for all the others, too
for n in range(400):
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
os.close(fd)
print("alive to the end", flush=True)
os.unlink({path!r})
"""
    name = os.path.join(guard.base, "filling.py")
    with open(name, "w", encoding="ascii") as f:
        f.write(script)
    r = guard.both([sys.executable, name], timeout=90,
                   env={"NNGUARD_DIR": os.path.join(fs.mount_point, "ng")})
    assert r.rc == 0 and "alive to the end" in r.out, str(r)
    assert_silent(r, leaves_nothing=False)


def test_journal_full(guard):
    """Far more records than the journal holds: the newest matter, losses are counted and said."""
    script = f"""
import os, sys, multiprocessing as mp
def work():
    import ctypes
    for n in range(200000):
        os.kill(os.getpid(), 0)
        if n % 4 == 0:
            try: os.open("/nonexistent/" + str(n) + ".npy", 0)
            except OSError: pass
    ctypes.string_at(0)
p = mp.get_context("fork").Process(target=work); p.start(); p.join()
print("STATUS", p.exitcode)
"""
    name = os.path.join(guard.base, "many.py")
    with open(name, "w", encoding="ascii") as f:
        f.write(script)
    r = guard.both([sys.executable, name], timeout=90)
    incident_of(r, "worker_segfault", signo=SEGV)
    assert r.report["lost_records"] >= 0
    assert os.path.getsize(os.path.join(r.runs[0], "journal")) <= 64 << 20


# ---- what is missing around us -------------------------------------------------------------------
def test_without_proc(guard, base):
    """A chroot-like place with no /proc: the library and the monitor must do without."""
    need_root()
    r = guard.both(victim("segv_null", python=SYSTEM_PYTHON),
                   wrap=lambda cmd: ["unshare", "-m", "sh", "-c",
                                     'mount -t tmpfs tmpfs /proc && exec "$@"', "sh", *cmd],
                   env={"PYTHONHOME": None})
    assert "SIGSEGV" in screen(r), str(r)
    assert r.seconds < r.bare.seconds + 5


def test_without_ptrace(guard):
    """ptrace forbidden by seccomp, as in hardened containers: the frame at the fault still shows."""
    wrapper = program("noptrace.c", "-static")
    r = guard.both(victim("segv_null"), wrap=lambda cmd: [wrapper, *cmd])
    i = incident_of(r, "worker_segfault", signo=SEGV)
    assert i["stack"]["native"], "the top frame comes from registers and maps"


def test_without_cgroup_files(guard):
    need_root()
    r = guard.both(victim("segv_null"),
                   wrap=lambda cmd: ["unshare", "-m", "sh", "-c",
                                     'umount -l /sys/fs/cgroup 2>/dev/null; mount -t tmpfs tmpfs '
                                     '/sys && exec "$@"', "sh", *cmd])
    incident_of(r, "worker_segfault", signo=SEGV)


def test_kill_without_cgroup_files(guard):
    """No counter can be read: never certain that it was the OOM killer, nor that it was not."""
    need_root()
    script = ("import multiprocessing as mp, os, signal, subprocess, time\n"
              "def w(): time.sleep(60)\n"
              "p = mp.get_context('fork').Process(target=w); p.start(); time.sleep(.3)\n"
              "subprocess.Popen(['setsid', 'env', '-u', 'LD_PRELOAD', 'sh', '-c', "
              "'sleep 0.1; kill -9 %d' % p.pid])\n"
              "p.join(); print('STATUS', p.exitcode)\n")
    r = guard.both([sys.executable, "-c", script],
                   wrap=lambda cmd: ["unshare", "-m", "sh", "-c",
                                     'umount -l /sys/fs/cgroup 2>/dev/null; mount -t tmpfs tmpfs '
                                     '/sys && exec "$@"', "sh", *cmd])
    i = r.report["incidents"][0]
    check_report(r.report)
    assert i["cause"] in ("killed_unknown", "killed_by") and i["confidence"] != "certain", str(r)


def test_few_descriptors(guard):
    r = guard.both(victim("segv_null"), wrap=lambda c: with_limits("-n 20", c))
    incident_of(r, "worker_segfault", signo=SEGV)


def test_file_size_limit_on_the_run(guard):
    """RLIMIT_FSIZE of nearly nothing: our journal must not raise SIGXFSZ in the trainer."""
    r = guard.both(victim("--ignore", "fine"), wrap=lambda c: with_limits("-f 8", c))
    assert r.rc == 0, str(r)


def test_small_address_space(guard):
    r = guard.both(victim("--ignore", "fine"), wrap=lambda c: with_limits("-v 400000", c))
    assert r.rc == 0, str(r)


# ---- odd children --------------------------------------------------------------------------------
def test_exec_of_32_bit_and_static_programs(guard):
    static = program("hello.c", "-static", target="hello-static")
    code = f"import subprocess; print(subprocess.run([{static!r}]).returncode)"
    r = guard.both([sys.executable, "-c", code])
    assert r.out == r.bare.out and r.rc == 0
    assert_silent(r)
    small = program("hello.c", "-m32", target="hello-32")
    code = f"import subprocess; print(subprocess.run([{small!r}]).returncode)"
    r = guard.both([sys.executable, "-c", code])
    assert r.out == r.bare.out and r.rc == 0
    # The loader itself may complain about the other class; we must not.
    assert_silent(r)


def test_a_child_with_an_empty_environment(guard):
    code = ("import subprocess, sys\n"
            "print(subprocess.run([sys.executable, '-c', 'print(5)'], env={}).returncode)\n")
    r = guard.both([sys.executable, "-c", code])
    assert r.rc == 0 and r.out == r.bare.out
    assert_silent(r)


def test_a_worker_whose_environment_was_emptied(guard):
    """os.environ.clear() before spawn: the worker starts without us, its death is still known."""
    path = os.path.join(guard.base, "cleared.py")
    with open(path, "w", encoding="ascii") as f:
        f.write("import ctypes, multiprocessing as mp, os, time\n"
                "def work(): time.sleep(2.5); ctypes.string_at(0)\n"
                "if __name__ == '__main__':\n"
                "    os.environ.clear()\n"
                "    c = mp.get_context('spawn')\n"
                "    p = c.Process(target=work); p.start(); p.join()\n"
                "    print('STATUS', p.exitcode)\n")
    r = guard.both([sys.executable, path])
    assert r.incidents, f"the death was not seen\n{r}"
    i = r.report["incidents"][0]
    check_report(r.report)
    assert i["exit"]["signal"] == SEGV and i["confidence"] != "certain", str(r)


# ---- two runs, descriptors, pipes ----------------------------------------------------------------
def test_two_runs_at_once(guard):
    directory = guard.new_dir()
    results = []

    def one(fate):
        results.append(guard.guarded(victim(*fate), directory=directory))
    threads = [threading.Thread(target=one, args=(fate,)) for fate in
               (["segv_null"], ["os_exit", "3"], ["segv_null"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    guard.settle(results[0])
    assert len(results[0].runs) == 3, results[0].runs
    causes = sorted(i["cause"] for i in results[0].incidents)
    assert causes == ["worker_exit", "worker_segfault", "worker_segfault"], causes
    for report in results[0].reports:
        check_report(report)
        assert len(report["incidents"]) == 1


def test_a_trainer_inside_a_run_belongs_to_it(guard):
    """A Python child opens no run of its own."""
    code = f"import subprocess, sys; sys.exit(subprocess.run({victim('segv_null')!r}).returncode)"
    r = guard.both([sys.executable, "-c", code])
    assert len(r.runs) == 1, r.runs
    incident_of(r, "worker_segfault", signo=SEGV)


def test_closed_stderr(guard):
    """The trainer closed fd 2 before anything: words have no place, the report is written."""
    r = guard.both(victim("close_stderr", "segv_null"))
    assert r.report["incidents"][0]["cause"] == "worker_segfault", str(r)


def test_closed_stderr_of_the_trainer_and_a_reused_fd(guard, base):
    """fd 2 is now somebody's data file: not a byte of ours may go into it."""
    data = os.path.join(base, "data.bin")
    code = (f"import os, sys\nos.close(2)\nfd = os.open({data!r}, os.O_CREAT | os.O_WRONLY)\n"
            "assert fd == 2\nos.write(2, b'payload')\n"
            "pid = os.fork()\n"
            "if pid == 0:\n    import ctypes; ctypes.string_at(0)\n"
            "os.waitpid(pid, 0)\nimport time; time.sleep(.5)\nos._exit(1)\n")
    r = guard.both([sys.executable, "-c", code])
    with open(data, "rb") as f:
        content = f.read()
    assert b"nnguard" not in content, content
    assert content.startswith(b"payload")


def test_redirected_stderr(guard, base):
    """python train.py 2> log: the words go where the user sends them, the last of them at the end."""
    log = os.path.join(base, "train.log")
    directory = guard.new_dir()
    cmd = " ".join(victim("segv_null"))
    r = execute(["bash", "-c", f"LD_PRELOAD={LIB} {cmd} 2>{log}; echo status $?"],
                clean_env({"NNGUARD_DIR": directory, "NNGUARD_LANG": "en"}))
    r.dir = directory
    guard.settle(r)
    with open(log, encoding="utf-8") as f:
        lines = f.read().rstrip("\n").split("\n")
    assert "status 1" in r.out
    assert any("SIGSEGV" in line for line in lines if line.startswith(PREFIX))
    assert lines[-1].startswith(PREFIX), lines[-4:]


def test_stderr_is_a_closed_pipe(guard):
    """Nobody reads any more: no SIGPIPE of our making, same status."""
    def run(preload):
        directory = guard.new_dir()
        cmd = " ".join(victim("segv_null"))
        env = clean_env({"NNGUARD_DIR": directory})
        head = f"LD_PRELOAD={LIB} " if preload else ""
        r = execute(["bash", "-c", f"{{ {head}{cmd}; echo status $? >&3; }} 3>&1 2> >(exec true); "
                                   "sleep 0.5"], env)
        r.dir = directory
        return guard.settle(r)
    bare, r = run(False), run(True)
    assert [x for x in r.out.split("\n") if "status" in x] == \
        [x for x in bare.out.split("\n") if "status" in x], f"{r}\n{bare}"
    assert r.report["incidents"][0]["cause"] == "worker_segfault"


def test_stderr_is_a_full_pipe(guard):
    """Nobody reads, the pipe is full: the trainer may wait for ever by itself, our monitor not make it."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        pass
    os.set_blocking(write, True)
    directory = guard.new_dir()
    code = ("import os, ctypes\npid = os.fork()\n"
            "if pid == 0: ctypes.string_at(0)\n"
            "os.waitpid(pid, 0)\nprint('over', flush=True)\n")
    env = clean_env({"NNGUARD_DIR": directory, "LD_PRELOAD": LIB})
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE,
                               stderr=write, start_new_session=True)
    os.close(write)
    try:
        out, _ = process.communicate(timeout=15)
        assert b"over" in out and process.returncode == 0
    finally:
        process.kill()
        os.close(read)


def test_stderr_is_a_terminal(guard):
    """On a terminal: colour for the first line and Fix, one carriage return a line at most."""
    import pty
    directory = guard.new_dir()
    chunks = []
    env = clean_env({"NNGUARD_DIR": directory, "NNGUARD_LANG": "en", "LD_PRELOAD": LIB,
                     "TERM": "xterm"})
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(sys.executable, victim("segv_null"), env)
    while True:
        try:
            data = os.read(fd, 4096)
        except OSError:
            break
        if not data:
            break
        chunks.append(data)
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    text = b"".join(chunks).decode("utf-8", "replace")
    assert os.WEXITSTATUS(status) == 1
    assert "nnguard: " in text.replace("\x1b[", "<") or "nnguard" in text, text
    assert "\x1b[" in text, "no colour on a terminal"


# ---- PID 1 ---------------------------------------------------------------------------------------
def container(guard, runc, cmd, timeout=60, bare=False):
    directory = guard.new_dir()
    os.mkdir(directory, 0o700)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "NNGUARD_LANG": "en"}
    if not bare:
        env.update(LD_PRELOAD=LIB, NNGUARD_DIR=directory)
    r = execute(runc.wrap(cmd, env, writable=[directory]), timeout=timeout)
    r.dir = directory
    if "runc" in r.err and "error" in r.err and not r.out:
        pytest.skip(f"runc cannot run here: {r.err[-200:]}")
    return guard.settle(r)


def test_pid_1_in_a_container(guard, runc):
    """docker run image python ...: our monitor is PID 1's child, and PID 1's wait must not see it."""
    cmd = victim("shared_memory", 100 << 20, python=SYSTEM_PYTHON)
    bare = container(guard, runc, cmd, bare=True)
    assert "STATUS worker 0 exit -7" in bare.out, str(bare)
    r = container(guard, runc, cmd)
    assert (r.rc, r.statuses()) == (bare.rc, bare.statuses()), f"{r}\n{bare}"
    i = incident_of(r, "shm_exhausted", signo=signal.SIGBUS, role="worker")
    assert r.report["run"]["root_pid"] == 1
    assert "64.0 MiB" in screen(r), str(r)
    assert i["fixes"][0]["kind"] == "root"


def test_pid_1_sees_no_child_of_ours(guard, runc):
    code = ("import os, errno\n"
            "assert os.getpid() == 1\n"
            "try: os.waitpid(-1, os.WNOHANG); print('a child')\n"
            "except ChildProcessError: print('ECHILD')\n"
            "pid = os.fork()\n"
            "if pid == 0: os._exit(0)\n"
            "print(os.waitpid(-1, 0)[1])\n"
            "try: os.wait(); print('a child')\n"
            "except ChildProcessError: print('ECHILD')\n")
    r = container(guard, runc, [SYSTEM_PYTHON, "-c", code])
    assert r.out.split() == ["ECHILD", "0", "ECHILD"], str(r)
    assert r.rc == 0 and not r.lines and not r.runs, str(r)


def test_pid_1_is_told_to_end(guard, runc):
    """A default SIGTERM is dropped by the kernel for PID 1: so it stays."""
    code = ("import os, signal, time, sys\n"
            "os.kill(1, signal.SIGTERM); time.sleep(.3); print('still here'); sys.exit(0)\n")
    bare = container(guard, runc, [SYSTEM_PYTHON, "-c", code], bare=True)
    r = container(guard, runc, [SYSTEM_PYTHON, "-c", code])
    assert (r.rc, r.out) == (bare.rc, bare.out), f"{r}\n{bare}"
    assert "still here" in r.out
