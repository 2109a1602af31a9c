# SPDX-License-Identifier: MIT
"""A kill that looks like another: an OOM kill whose victim is signalled as well, a kill -9 while the
kernel takes somebody else of the same cgroup. The kernel's log would tell, so these run as an ordinary
user, who may not read it."""
import ctypes
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import NOBODY, alive, as_nobody, check_report, incident_of, need_tool, screen, wait_until

KILL = signal.SIGKILL
EAT = "x = []\n    while True: x.append(bytearray(b'x') * (8 << 20))"
HOG = "import time; time.sleep(2.2); x = []\nwhile True: x.append(bytearray(b'x') * (8 << 20))"


@pytest.fixture
def place(guard, public, memory_cgroup):
    """Runs a script as an ordinary user in a memory cgroup of 160 MiB."""
    memory_cgroup.limit_memory(160 << 20)

    class Place:
        group = memory_cgroup
        home = public.home
        where = None
        shell = None

        def run(self, script, during=None):
            return guard.guarded([public.python, "-c", script], env={"HOME": public.home},
                                 cwd=public.home, during=during,
                                 wrap=lambda cmd: self.group.wrap(as_nobody(cmd), self.where))

        def read(self, name):
            with open(os.path.join(self.home, name), encoding="ascii") as f:
                return f.read()

        def has(self, name):
            return os.path.exists(os.path.join(self.home, name))
    return Place()


# ---- the victim of an OOM kill is signalled, too --------------------------------------------------
def test_the_trainer_cleans_up_at_once(place):
    """It wakes as its worker's files are closed, and sends SIGKILL to what is dead or dying."""
    r = place.run(f"""
import multiprocessing as mp, multiprocessing.connection as c, time, sys
def work():
    time.sleep(1.5); {EAT}
p = mp.get_context("fork").Process(target=work); p.start()
c.wait([p.sentinel]); p.kill(); p.join(); time.sleep(0.5); sys.exit(1)
""")
    assert place.group.kills() == 1
    i = incident_of(r, "cgroup_oom", signo=KILL, role="worker")
    assert "trainer" not in i["summary"]["en"].split("died")[1], str(r)


def test_the_trainer_cleans_up_after_an_outsider(place):
    r = place.run("""
import multiprocessing as mp, multiprocessing.connection as c, subprocess, time, sys
def work(): time.sleep(30)
p = mp.get_context("fork").Process(target=work); p.start()
subprocess.Popen(["/bin/sh", "-c", f"sleep 0.5; kill -9 {p.pid}"])
c.wait([p.sentinel]); p.kill(); p.join(); time.sleep(0.5); sys.exit(1)
""")
    incident_of(r, "killed_unknown", "unknown", signo=KILL, role="worker")


# ---- kill -9 while somebody else is taken ---------------------------------------------------------
TOOL = f"""
import multiprocessing as mp, os, subprocess, sys, time
def work(): time.sleep(40)
p = mp.get_context("fork").Process(target=work); p.start()
open("pid", "w").write(str(p.pid))
r = subprocess.run(["/usr/bin/python3", "-I", "-c", {HOG!r}], env={{}})
open("tool", "w").write(str(r.returncode))
p.join(); print("STATUS", p.exitcode, flush=True); time.sleep(0.3); sys.exit(1)
"""


@pytest.mark.parametrize("after", [0.05, 2])
def test_a_tool_of_the_trainer_was_the_victim(place, after):
    """It is skipped by the trainer; then a person kills a worker."""
    def during(process, result):
        assert wait_until(lambda: place.has("tool") and place.read("tool"), 20), result.peek()
        time.sleep(after)
        os.kill(int(place.read("pid")), KILL)
    r = place.run(TOOL, during)
    assert place.read("tool") == "-9" and place.group.kills() == 1
    i = r.report["incidents"][0]
    assert i["exit"]["signal"] == KILL and i["process"]["role"] == "worker"
    assert i["confidence"] in ("possible", "unknown"), str(r)


IDLE = """
import multiprocessing as mp, sys, time
def work(): time.sleep(40)
p = mp.get_context("fork").Process(target=work); p.start()
open("pid", "w").write(str(p.pid))
p.join(); time.sleep(0.3); sys.exit(1)
"""


def beside(place, group=None):
    """A stranger that the kernel kills, in the same cgroup or another."""
    done = subprocess.Popen(place.group.wrap([sys.executable, "-I", "-c", HOG], group))
    return done


@pytest.mark.parametrize("adopted", [False, True])
def test_a_stranger_of_the_cgroup_was_the_victim(place, adopted):
    """A subreaper (systemd --user, slurmstepd) may have adopted the monitor; what else it started is
    a stranger all the same."""
    reaper = ctypes.CDLL(None).prctl
    reaper(36, int(adopted), 0, 0, 0)

    def during(process, result):
        assert wait_until(lambda: place.has("pid") and place.read("pid"), 20), result.peek()
        assert beside(place).wait(20) == -KILL
        time.sleep(0.1)
        os.kill(int(place.read("pid")), KILL)
    try:
        r = place.run(IDLE, during)
    finally:
        reaper(36, 0, 0, 0, 0)
    assert place.group.kills() == 1
    i = r.report["incidents"][0]
    assert i["confidence"] in ("possible", "unknown"), str(r)


def test_a_sibling_kills_while_a_stranger_is_taken(place):
    script = f"""
import multiprocessing as mp, os, signal, sys, time
def work(): time.sleep(40)
def killer(pid):
    while not os.path.exists("go"): time.sleep(0.01)
    os.kill(pid, signal.SIGKILL); time.sleep(40)
ctx = mp.get_context("fork")
p = ctx.Process(target=work); p.start()
q = ctx.Process(target=killer, args=(p.pid,)); q.start()
open("pid", "w").write(str(p.pid))
p.join(); time.sleep(0.3); q.terminate(); q.join(); sys.exit(1)
"""

    def during(process, result):
        assert wait_until(lambda: place.has("pid") and place.read("pid"), 20), result.peek()
        assert beside(place).wait(20) == -KILL
        with open(os.path.join(place.home, "go"), "w", encoding="ascii"):
            pass
    r = place.run(script, during)
    assert place.group.kills() == 1
    incident_of(r, "killed_by", "likely", signo=KILL, role="worker")


def test_kill_9_at_the_limit_without_an_oom_kill(place):
    """The page cache fills the group to its limit, the limit is met again and again, nobody is taken."""
    script = """
import multiprocessing as mp, os, sys, time
def work():
    block = os.urandom(1 << 20)
    while True:
        with open("cache", "wb") as f:
            for _ in range(300): f.write(block)
        open("full", "w").write("1")
p = mp.get_context("fork").Process(target=work); p.start()
open("pid", "w").write(str(p.pid))
p.join(); time.sleep(0.3); sys.exit(1)
"""

    def during(process, result):
        assert wait_until(lambda: place.has("full"), 30), result.peek()
        time.sleep(1.2)
        os.kill(int(place.read("pid")), KILL)
    r = place.run(script, during)
    assert place.group.kills() == 0
    if not place.group.v2:
        assert int(place.group.read("memory.failcnt")) > 0
    incident_of(r, "killed_unknown", "unknown", signo=KILL, role="worker")


@pytest.mark.parametrize("where", ["child", "sibling"])
def test_the_oom_kill_was_in_another_group(place, where):
    """A child group at its own limit, or a sibling at the limit of the parent: our own count stays."""
    run, other = place.group.child("run"), place.group.child("other")
    if where == "child":
        place.where, taken = None, run
        place.group.limit_memory(60 << 20, run)
    else:
        place.where, taken = run, other

    def during(process, result):
        assert wait_until(lambda: place.has("pid") and place.read("pid"), 20), result.peek()
        assert beside(place, taken).wait(20) == -KILL
        os.kill(int(place.read("pid")), KILL)
    r = place.run(IDLE, during)
    i = r.report["incidents"][0]
    assert (i["cause"], i["confidence"]) == ("killed_unknown", "unknown"), str(r)


# ---- real ones stay certain -----------------------------------------------------------------------
def test_two_victims_at_once(place):
    """Both fill the group; the kernel takes one after the other."""
    r = place.run(f"""
import multiprocessing as mp, sys, time
def work():
    time.sleep(1.5); {EAT}
ctx = mp.get_context("fork")
ps = [ctx.Process(target=work) for _ in range(2)]
for p in ps: p.start()
for p in ps: p.join()
print("STATUS", [p.exitcode for p in ps], flush=True); time.sleep(0.3); sys.exit(1)
""")
    assert "STATUS [-9, -9]" in r.out and place.group.kills() == 2, str(r)
    incident_of(r, "cgroup_oom", signo=KILL, role="worker", count=2)


# ---- systemd-oomd's mark --------------------------------------------------------------------------
def mark(group, n):
    try:
        os.setxattr(group.path, "user.oomd_kill", str(n).encode())
    except OSError as error:
        pytest.skip(f"no user attributes on cgroups: {error}")


@pytest.mark.parametrize("rises", [False, True])
def test_the_mark_of_oomd(place, rises):
    mark(place.group, 1)

    def during(process, result):
        assert wait_until(lambda: place.has("pid") and place.read("pid"), 20), result.peek()
        pid = int(place.read("pid"))
        time.sleep(0.5)
        if rises:
            mark(place.group, 2)
        os.kill(pid, KILL)
        wait_until(lambda: not alive(pid), 5)
    r = place.run(IDLE, during)
    if rises:
        incident_of(r, "oomd_kill", signo=KILL, role="worker")
    else:
        incident_of(r, "killed_unknown", "unknown", signo=KILL, role="worker")
        assert "oomd" not in screen(r)


# ---- a SIGTERM to the trainer by its own people ---------------------------------------------------
@pytest.mark.parametrize("way", ["system", "program", "shell"])
def test_the_trainer_is_ended_by_what_it_started(guard, way):
    """Nobody outside: a shell or a program of the run itself."""
    how = {"system": "os.system('kill -TERM %d; sleep 0.3' % os.getpid())",
           "program": "subprocess.run(['/bin/kill', '-TERM', str(os.getpid())])",
           "shell": "subprocess.run('(kill -TERM %d; sleep 0.3) & wait' % os.getpid(), shell=True)"}[way]
    r = guard.guarded([sys.executable, "-c", f"import os, subprocess, time\n{how}\ntime.sleep(5)"])
    assert r.rc == -signal.SIGTERM
    incident_of(r, "killed_by", signo=signal.SIGTERM, role="trainer")
    assert "outside" not in screen(r) and "no process of this run" not in screen(r), str(r)


# ---- the machine's limit, not the group's ---------------------------------------------------------
def test_the_whole_machine_is_short_and_a_limit_is_far(uml, guard, public):
    """The kernel counts its kill in the victim's cgroup also where the whole machine ran out."""
    need_tool("linux", "setpriv")
    path = os.path.join(os.path.dirname(guard.lib), "eat.py")
    with open(path, "w", encoding="ascii") as f:
        f.write("import multiprocessing as mp, sys, time\ndef work():\n"
                f"    time.sleep(2); {EAT.replace('8 << 20', '2 << 20')}\n"
                "p = mp.get_context('fork').Process(target=work); p.start()\n"
                "p.join(); time.sleep(0.3); sys.exit(1)\n")
    script = ("echo UML-START; echo 1 > /proc/sys/kernel/dmesg_restrict\n"
              "echo +memory > /sys/fs/cgroup/cgroup.subtree_control; mkdir /sys/fs/cgroup/job\n"
              "echo 4G > /sys/fs/cgroup/job/memory.max; mkdir /tmp/ng; chmod 777 /tmp/ng\n"
              "sh -c 'echo $$ > /sys/fs/cgroup/job/cgroup.procs; exec \"$@\"' sh "
              f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups env LD_PRELOAD={guard.lib} "
              f"NNGUARD_DIR=/tmp/ng/x NNGUARD_LANG=en HOME=/tmp {public.python} {path} 2>/tmp/err\n"
              "sleep 1; cat /sys/fs/cgroup/job/memory.events.local; echo UML-JSON\n"
              "cat /tmp/ng/x/latest/report.json; echo; echo UML-DONE\n")
    out = uml(script, mem="192M", timeout=90).out
    assert "oom_kill 1" in out and "UML-DONE" in out, out[-3000:]
    report = json.loads(out.split("UML-JSON", 1)[1].split("UML-DONE", 1)[0])
    check_report(report)
    i = report["incidents"][0]
    assert (i["cause"], i["confidence"]) == ("host_oom", "likely"), i
    assert not any("--memory" in (f["command"] or "") for f in i["fixes"]), i["fixes"]
