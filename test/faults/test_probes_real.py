# SPDX-License-Identifier: MIT
"""The probes against the real thing: a kernel's OOM kill under cgroup v1 and v2, the stack of a Python
that waits in its handler, segments in /dev/shm that have no name any more."""
import glob
import os
import signal
import subprocess
import sys

import pytest

from conftest import BUILD, HERE, ROOT, SYSTEM_PYTHON, boot_uml, need_root, need_tool

MIB = 1 << 20


@pytest.fixture(scope="module")
def probes():
    """test/faults/native/probes.c, linked with the objects that nnguard was made of."""
    objects = [*glob.glob(os.path.join(BUILD, "bin", "probes", "*.o")),
               os.path.join(BUILD, "bin", "shim", "causes", "text.o")]
    source = os.path.join(HERE, "native", "probes.c")
    target = os.path.join(BUILD, "native", "probes")
    newest = max(map(os.path.getmtime, [source, *objects]))
    if not os.path.exists(target) or os.path.getmtime(target) < newest:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        new = f"{target}.{os.getpid()}"
        subprocess.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-g", f"-I{ROOT}", "-static",
                        source, *objects, "-lunwind-generic", "-lunwind", "-llzma", "-lpthread",
                        "-o", new], check=True)
        os.rename(new, target)
    return target


def facts(text):
    """name=value lines; a name that comes again becomes a list."""
    found = {}
    for line in text.splitlines():
        name, equal, value = line.strip().partition("=")
        if not equal or not name.replace("_", "").isalnum():
            continue
        value = int(value) if value.lstrip("-").isdigit() else value
        if name == "frame":
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


def ask(probes, *args, prefix=()):
    done = subprocess.run([*prefix, probes, *map(str, args)], stdout=subprocess.PIPE, timeout=60,
                          check=True, encoding="utf-8", errors="replace")
    return facts(done.stdout)


def check_oom(got, folder):
    assert got["mem"] == folder
    assert got["state"] == "Z" and got["stat_code"] == signal.SIGKILL
    assert got["status"] == signal.SIGKILL
    if got["pidfd_rc"] == 1:  # kernel 6.15 and later
        assert got["pidfd_status"] == signal.SIGKILL
    assert got["kills"] == 1
    assert got["vmstat"] >= 1
    assert got["fails"] >= 1
    assert got["limit"] == 32 * MIB


def check_kmsg(got):
    assert got["found"] == 1 and got["by_pid"] == 1 and got["global"] == 0
    assert got["anon_rss"] > 16 * MIB
    assert got["line"].startswith("Memory cgroup out of memory: Killed process")
    assert got["found_other"] == 0


def initial_pid_namespace():
    return os.stat("/proc/self/ns/pid").st_ino == 4026531836


def test_oom__cgroup_of_this_machine__counted_once_and_named_by_the_kernel(probes, memory_cgroup):
    memory_cgroup.limit_memory(32 * MIB)
    got = ask(probes, "oom", memory_cgroup.path)
    check_oom(got, memory_cgroup.path)
    assert got["hit"] == memory_cgroup.path
    if "found" in got and initial_pid_namespace():
        check_kmsg(got)


def test_oom__limit_of_the_parent__own_group_counts_the_kill_parent_was_hit(probes, memory_cgroup):
    if not memory_cgroup.v2:
        try:
            memory_cgroup.write("memory.use_hierarchy", 1)
        except OSError:
            pass  # newer kernels know nothing else
    memory_cgroup.limit_memory(32 * MIB)
    own, other = memory_cgroup.child("own"), memory_cgroup.child("other")
    got = ask(probes, "oom", own, other)
    assert got["mem"] == own
    assert got["kills"] == 1
    assert got["sibling_kills"] == 0
    assert got["limit"] == -1
    assert got["hit"] == memory_cgroup.path


def test_oom__v2_in_a_second_kernel__local_counters(probes, base):
    script = f"""
cd /sys/fs/cgroup && echo +memory > cgroup.subtree_control
mkdir run && echo +memory > run/cgroup.subtree_control
mkdir run/own run/other && echo {32 * MIB} > run/own/memory.max
{probes} oom /sys/fs/cgroup/run/own /sys/fs/cgroup/run/other
"""
    result = boot_uml(base, script)
    got = facts(result.out)
    assert got.get("version") == 2, result.out
    check_oom(got, "/sys/fs/cgroup/run/own")
    assert got["sibling_kills"] == 0
    assert got["hit"] == "/sys/fs/cgroup/run/own"
    assert "found" in got, "the second kernel's log could not be read"
    check_kmsg(got)


def test_cgroup__own_namespace_over_foreign_mounts__unknown_rather_than_a_strangers(probes,
                                                                                    memory_cgroup):
    need_root()
    need_tool("unshare")
    got = ask(probes, "find", "self",
              prefix=memory_cgroup.wrap(["unshare", "-C"]))
    # The mounts lie outside of the new namespace: the path "/" leads to the whole machine's group.
    assert got["rc"] == 0
    assert got["version"] == 0 or got["mem"].startswith(memory_cgroup.path)


HOLD_AND_CRASH = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])
ctypes.CDLL(sys.argv[2]).crash_decode_block(0)
"""


@pytest.fixture
def held(native):
    """Starts a Python that waits in its handler; returns (process, what it told)."""
    running = []

    def start(python=sys.executable, code=HOLD_AND_CRASH):
        process = subprocess.Popen([python, "-c", code, native("hold.c"), native("crash.c")],
                                   stdout=subprocess.PIPE, encoding="ascii")
        running.append(process)
        told = process.stdout.readline().split()
        assert told and told[0] == "held", told
        return process, told[1:]
    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_stack__python_that_waits__names_from_the_fault_up(probes, held):
    process, told = held()
    got = ask(probes, "stack", 20, *told)
    if got["err"] == -1:
        pytest.skip("ptrace is refused here")
    names = [frame.split()[1] for frame in got["frame"]]
    assert names[:2] == ["crash_inner_store", "crash_decode_block"]
    assert got["culprit"] == 0
    assert not any("hold" in frame for frame in got["frame"])
    assert any("_PyEval_EvalFrameDefault" in name or "Py_RunMain" in name for name in names)
    print({name: got[name] for name in got if name.endswith("_ms") or name == "rss"})
    assert got["take_median_ms"] and float(got["take_median_ms"]) < 200
    assert got["rss"] < 4 * MIB  # the unwinder's memory is a child's, and gone
    assert process.poll() is None
    with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
        assert "TracerPid:\t0\n" in f.read()


def test_stack__torch_loaded__still_quick(probes, held):
    code = "import torch; torch.zeros(1)\n" + HOLD_AND_CRASH
    if subprocess.run([SYSTEM_PYTHON, "-c", "import torch"], stderr=subprocess.DEVNULL,
                      timeout=60).returncode:
        pytest.skip("the system's Python has no torch")
    _, told = held(SYSTEM_PYTHON, code)
    got = ask(probes, "stack", 20, *told)
    if got["err"] == -1:
        pytest.skip("ptrace is refused here")
    assert got["frame"][0].split()[1] == "crash_inner_store"
    print({name: got[name] for name in got if name.endswith("_ms")})
    assert float(got["take_median_ms"]) < 500


HOLDER = """
import mmap, os, sys
size = 1 << 20
for i in range(2):
    fd = os.open(f"/dev/shm/torch_{os.getpid()}_1_{i}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.posix_fallocate(fd, 0, size)
    os.unlink(f"/dev/shm/torch_{os.getpid()}_1_{i}")
    m = mmap.mmap(fd, size)
    if i == 0:
        os.close(fd)
    globals()[f"keep{i}"] = m
with open("/dev/shm/torch_4194303_1_0", "wb") as f:
    f.write(bytes(size // 2))
print("ready", os.getpid(), flush=True)
sys.stdin.read()
"""


def test_shm__unlinked_and_mapped__held_by_its_process_and_left_over_told(probes, mounts):
    script = (f"mount -t tmpfs -o size=8m tmpfs /dev/shm; exec {sys.executable} -c '{HOLDER}'")
    process = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, encoding="ascii")
    try:
        told = process.stdout.readline().split()
        assert told[:1] == ["ready"]
        inside = ["nsenter", "-m", "-t", told[1]]
        need_tool("nsenter")
        got = ask(probes, "shm", 20, told[1], prefix=inside)
        print({name: got[name] for name in got if name.endswith("_ms")})
        assert got["total"] == 8 * MIB
        assert got["held"] == 2 * MIB and got["holders"] == 1
        assert got["named"] == MIB // 2
        assert got["leaked"] == 0  # just written: somebody may be about to map it
        assert got["free"] == 8 * MIB - 2 * MIB - MIB // 2
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()
