# SPDX-License-Identifier: MIT
"""Out of memory: a cgroup's limit (v1 here, v2 in a second kernel), the whole machine (only in a
second kernel), a Pool that is killed for ever."""
import json
import os
import re
import signal
import sys

import pytest

from conftest import (check_report, fact, incident_of, need_tool, screen, victim, BIN, LIB,
                      SYSTEM_PYTHON, VICTIM)

KILL = signal.SIGKILL


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_hits_the_limit(guard, memory_cgroup, method):
    memory_cgroup.limit_memory(160 << 20)
    r = guard.both(victim("--method", method, "eat", 1000), wrap=memory_cgroup.wrap)
    assert memory_cgroup.kills() >= 2
    i = incident_of(r, "cgroup_oom", signo=KILL, role="worker")
    assert fact(i, "cgroup.limit_bytes") == 160 << 20, i["evidence"]
    assert "160.0 MiB" in screen(r), str(r)
    assert i["fixes"] and i["fixes"][0]["kind"] == "root"


def test_the_limit_of_a_parent_group(guard, memory_cgroup):
    """The worker's own group has no limit; that of the group above was hit."""
    memory_cgroup.limit_memory(160 << 20)
    inner = memory_cgroup.child("job")
    r = guard.both(victim("eat", 1000), wrap=lambda cmd: memory_cgroup.wrap(cmd, inner))
    i = incident_of(r, "cgroup_oom", signo=KILL, role="worker")
    assert "160.0 MiB" in screen(r) + str(i["evidence"]), str(r)


def test_the_trainer_is_the_victim(guard, memory_cgroup):
    memory_cgroup.limit_memory(160 << 20)
    r = guard.both(victim("--api", "self", "eat", 1000), wrap=memory_cgroup.wrap)
    assert r.rc == -KILL
    incident_of(r, "cgroup_oom", signo=KILL, role="trainer")


def test_a_pool_that_is_killed_for_ever(guard, memory_cgroup):
    """Each replacement meets the same end: told at the first, then counted."""
    memory_cgroup.limit_memory(200 << 20)
    script = f"""
import multiprocessing as mp, sys
sys.path.insert(0, {os.path.dirname(VICTIM)!r})
import fault_victim as v
def greedy():
    v.eat(1000)
if __name__ == "__main__":
    pool = mp.get_context("spawn").Pool(2, initializer=greedy)
    try:
        pool.apply_async(abs, (-1,)).get(timeout=6)
    except mp.TimeoutError:
        print("STATUS no answer", flush=True)
    pool.terminate()
    sys.exit(1)
"""
    path = os.path.join(guard.base, "forever.py")
    with open(path, "w", encoding="ascii") as f:
        f.write(script)
    r = guard.both([sys.executable, path], wrap=memory_cgroup.wrap)
    i = incident_of(r, "cgroup_oom", signo=KILL, role="worker")
    assert i["count"] >= 2, str(r)
    assert i["last_time"], "a repeated incident has a last time"
    assert r.said_at() < 6, f"said after {r.said_at()} s"
    assert sum(1 for line in r.lines if line.startswith("certain")) <= 2, str(r)


def test_moved_to_another_group(guard, memory_cgroup, base):
    """The worker is moved while it lives; its own group at its death counts."""
    memory_cgroup.limit_memory(400 << 20)
    inner = memory_cgroup.child("tight")
    memory_cgroup.limit_memory(120 << 20, inner)
    script = ("import os, sys\n"
              f"sys.path.insert(0, {os.path.dirname(VICTIM)!r})\n"
              "import fault_victim as v, multiprocessing as mp\n"
              "def work():\n"
              f"    open({os.path.join(inner, 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
              "    import time; time.sleep(1.5)\n"
              "    v.eat(1000)\n"
              "p = mp.get_context('fork').Process(target=work); p.start(); p.join()\n"
              "print('STATUS', p.exitcode)\n")
    r = guard.guarded([sys.executable, "-c", script], wrap=memory_cgroup.wrap)
    assert "STATUS -9" in r.out, str(r)
    incident_of(r, "cgroup_oom", signo=KILL, role="worker")


def test_memory_error_of_a_handled_request_is_silent(guard):
    from conftest import assert_silent
    script = ("try:\n    bytearray(1 << 60)\nexcept MemoryError:\n    print('handled')\n")
    r = guard.both([sys.executable, "-c", script])
    assert "handled" in r.out
    assert_silent(r)


# ---- second kernel -------------------------------------------------------------------------------
def guest(env, wrap, cmd):
    """A line of shell that runs cmd guarded in the guest; its report is printed between marks."""
    words = " ".join(f"'{part}'" for part in cmd)
    return (f"mkdir -p /tmp/ng; {wrap} sh -c \"env LD_PRELOAD={LIB} NNGUARD_DIR=/tmp/ng "
            f"NNGUARD_LANG=en {env} {words}\" >/tmp/out 2>/tmp/err; echo UML-STATUS $?\n"
            "sleep 1; echo UML-OUT; cat /tmp/out; echo UML-ERR; cat /tmp/err; echo UML-JSON; "
            "cat /tmp/ng/latest/report.json; echo; echo UML-DONE\n")


def guest_report(result):
    text = result.out
    assert "UML-DONE" in text, text[-3000:]
    part = text.split("UML-JSON", 1)[1].split("UML-DONE", 1)[0].strip()
    assert part.startswith("{"), f"no report\n{text[-3000:]}"
    report = json.loads(part)
    check_report(report)
    return report, text.split("UML-ERR", 1)[1].split("UML-JSON", 1)[0]


def uml_ready():
    need_tool("linux")
    for path in (LIB, BIN, VICTIM, SYSTEM_PYTHON):
        if not os.path.exists(path):
            pytest.skip(f"{path} is missing")


def test_cgroup_v2(uml):
    uml_ready()
    script = ("echo UML-START; echo '+memory +pids' > /sys/fs/cgroup/cgroup.subtree_control\n"
              "mkdir /sys/fs/cgroup/job; echo 90M > /sys/fs/cgroup/job/memory.max\n" +
              guest("", "sh -c 'echo $$ > /sys/fs/cgroup/job/cgroup.procs; exec \"$@\"' sh",
                    [SYSTEM_PYTHON, VICTIM, "eat", "600"]) +
              "cat /sys/fs/cgroup/job/memory.events\n")
    result = uml(script, mem="512M", timeout=60)
    report, err = guest_report(result)
    assert re.search(r"^oom_kill [1-9]", result.out, re.M), result.out[-1500:]
    assert len(report["incidents"]) == 1, result.out[-4000:]
    i = report["incidents"][0]
    assert (i["cause"], i["confidence"], i["exit"]["signal"]) == ("cgroup_oom", "certain", 9), err
    assert fact(i, "cgroup.limit_bytes") == 90 << 20, i["evidence"]
    assert i["process"]["role"] == "worker"
    assert "nnguard: " in err and "90.0 MiB" in err, err


def test_cgroup_v2_whole_group(uml):
    """memory.oom.group, as Kubernetes sets it: everything in the group dies at once, our monitor
    with it; the journal on the volume tells."""
    uml_ready()
    script = ("echo UML-START; echo '+memory' > /sys/fs/cgroup/cgroup.subtree_control\n"
              "mkdir /sys/fs/cgroup/job; echo 90M > /sys/fs/cgroup/job/memory.max\n"
              "echo 1 > /sys/fs/cgroup/job/memory.oom.group; mkdir -p /tmp/ng\n"
              f"( sh -c 'echo $$ > /sys/fs/cgroup/job/cgroup.procs; exec env LD_PRELOAD={LIB} "
              f"NNGUARD_DIR=/tmp/ng {SYSTEM_PYTHON} {VICTIM} eat 600' ) >/tmp/out 2>&1\n"
              f"echo UML-STATUS $?; cat /tmp/out; ls -R /tmp/ng; echo UML-REPORT; "
              f"NNGUARD_DIR=/tmp/ng NNGUARD_LANG=en {BIN} report --json; echo; echo UML-DONE\n")
    result = uml(script, mem="512M", timeout=60)
    assert "UML-STATUS 137" in result.out, result.out[-2000:]
    part = result.out.split("UML-REPORT", 1)[1].split("UML-DONE", 1)[0].strip()
    assert part.startswith("{"), result.out[-3000:]
    report = json.loads(part)
    check_report(report)
    assert report["incidents"], part
    assert {i["cause"] for i in report["incidents"]} <= {"cgroup_oom", "killed_unknown"}, part


def test_host_oom(uml):
    """The whole machine, 160 MB of it: the kernel's global kill, named as such."""
    uml_ready()
    script = "echo UML-START\n" + guest("", "", [SYSTEM_PYTHON, VICTIM, "eat", "900"])
    result = uml(script, mem="192M", timeout=60)
    report, err = guest_report(result)
    assert len(report["incidents"]) == 1, result.out[-4000:]
    i = report["incidents"][0]
    assert (i["cause"], i["exit"]["signal"]) == ("host_oom", 9), result.out[-4000:]
    assert i["confidence"] == "certain", i
    assert "nnguard: " in err


def test_shm_in_the_second_kernel(uml):
    """cgroup v2, kernel 6.1, no PIDFD_GET_INFO: the status comes from elsewhere."""
    uml_ready()
    script = ("echo UML-START; mount -t tmpfs -o size=1m tmpfs /dev/shm\n" +
              guest("", "", [SYSTEM_PYTHON, VICTIM, "--method", "forkserver", "shared_memory"]))
    result = uml(script, mem="512M", timeout=60)
    report, err = guest_report(result)
    i = report["incidents"][0]
    assert (i["cause"], i["confidence"], i["exit"]["signal"]) == ("shm_exhausted", "certain", 7), err
