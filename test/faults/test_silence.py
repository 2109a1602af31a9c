# SPDX-License-Identifier: MIT
"""Silence: normal ends, ends that a program or a person wanted, and ordinary tools under an exported
preload. Nothing is said, nothing is left, statuses and output are those of the bare run."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import (assert_silent, execute, clean_env, torch_python, victim, LIB)

METHODS = ["fork", "spawn", "forkserver"]


def script(guard, text, name="quiet.py"):
    path = os.path.join(guard.base, name)
    with open(path, "w", encoding="ascii") as f:
        f.write(text)
    return path


def quiet(guard, text, python=None, rc=0, same_err=True, **kwargs):
    """Run a script bare and guarded; everything must be equal and nothing said."""
    path = script(guard, text)
    r = guard.both([python or sys.executable, path], **kwargs)
    assert r.rc == rc, str(r)
    assert r.out == r.bare.out, f"{r}\n== bare {r.bare}"
    if same_err:
        assert r.err == r.bare.err, f"{r}\n== bare {r.bare}"
    assert_silent(r)
    return r


HEAD = "import multiprocessing as mp, os, signal, subprocess, sys, time, threading\n"


@pytest.mark.parametrize("method", METHODS)
def test_pool_end(guard, method):
    quiet(guard, HEAD + f"""
if __name__ == "__main__":
    c = mp.get_context({method!r})
    with c.Pool(3) as pool:           # __exit__ terminates
        print(sum(pool.map(abs, range(50))))
    pool = c.Pool(2); print(pool.apply(abs, (-3,))); pool.close(); pool.join()
    pool = c.Pool(2, maxtasksperchild=1); print(pool.map(abs, range(6), 1)); pool.terminate(); pool.join()
    print("end")
""")


@pytest.mark.parametrize("method", METHODS)
def test_executor_end(guard, method):
    quiet(guard, HEAD + f"""
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=mp.get_context({method!r})) as e:
        print(list(e.map(abs, range(5))))
""")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["terminate", "kill", "os.kill"])
def test_parent_ends_its_workers(guard, method, how):
    end = {"terminate": "p.terminate()", "kill": "p.kill()",
           "os.kill": "os.kill(p.pid, signal.SIGKILL)"}[how]
    quiet(guard, HEAD + f"""
def work(): time.sleep(60)
if __name__ == "__main__":
    c = mp.get_context({method!r})
    for p in [c.Process(target=work) for _ in range(2)]:
        p.start(); time.sleep(0.2); {end}; p.join(); print(p.exitcode)
""")


def test_daemons_at_exit(guard):
    quiet(guard, HEAD + """
def work(): time.sleep(60)
if __name__ == "__main__":
    for _ in range(3): mp.Process(target=work, daemon=True).start()
    time.sleep(0.3)
    print("leaving with daemons alive")
""")


def test_daemons_that_outlive_a_plain_exit(guard):
    """The trainer leaves by os._exit; its workers notice and end."""
    quiet(guard, HEAD + """
def work(r):
    try: r.recv()
    except EOFError: pass
if __name__ == "__main__":
    a, b = mp.Pipe()
    p = mp.Process(target=work, args=(b,)); p.start(); b.close()
    print("x", flush=True); os._exit(0)
""")


def test_a_worker_that_is_simply_done(guard):
    quiet(guard, HEAD + """
def work(): sys.exit(0)
if __name__ == "__main__":
    p = mp.Process(target=work); p.start(); p.join(); print(p.exitcode)
""")


@pytest.mark.parametrize("which", ["old", "new"])
@pytest.mark.parametrize("persistent", [False, True])
def test_dataloader_end(guard, which, persistent):
    quiet(guard, HEAD + f"""
import torch, torch.utils.data as d
torch.set_num_threads(1)
if __name__ == "__main__":
    data = d.TensorDataset(torch.arange(64.0))
    l = d.DataLoader(data, batch_size=4, num_workers=2, persistent_workers={persistent})
    print(sum(float(x[0].sum()) for x in l))
    it = iter(l); next(it)       # left half-way
    print("end")
""", python=torch_python(which), timeout=90)


def test_a_plain_exception_of_the_root(guard):
    quiet(guard, "raise KeyError('no such key')\n", rc=1)
    quiet(guard, "import sys\nsys.exit(1)\n", rc=1)
    quiet(guard, "import sys\nsys.exit('a message')\n", rc=1)
    quiet(guard, "import os\nos._exit(4)\n", rc=4)


def test_keyboard_interrupt_raised_inside(guard):
    quiet(guard, "raise KeyboardInterrupt\n", rc=-signal.SIGINT)


def test_failing_helpers(guard):
    quiet(guard, HEAD + """
print(subprocess.run(["grep", "-q", "x", "/dev/null"]).returncode)
print(subprocess.run(["sh", "-c", "kill -SEGV $$"]).returncode)
print(subprocess.run(["sh", "-c", "kill -9 $$"]).returncode)
print(subprocess.run([sys.executable, "-c", "raise SystemExit(9)"]).returncode)
print(subprocess.run([sys.executable, "-c", "import os; os.abort()"],
                     stderr=subprocess.DEVNULL).returncode)
print(os.system("false") >> 8, os.system("exit 7") >> 8)
p = os.popen("echo hi; exit 3"); p.read(); print(p.close())
try: subprocess.run(["/nonexistent"])
except FileNotFoundError: print("not found")
p = subprocess.Popen(["sleep", "60"]); p.terminate(); print(p.wait())
p = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]); time.sleep(.3)
p.kill(); print(p.wait())
""")


def test_a_helper_is_killed_by_the_timeout(guard):
    quiet(guard, HEAD + """
try: subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)
except subprocess.TimeoutExpired: print("timeout")
""")


def test_exec_of_itself(guard):
    quiet(guard, HEAD + """
n = int(os.environ.get("ROUND", "0"))
print("round", n, os.getpid() > 0, flush=True)
if n < 3:
    os.environ["ROUND"] = str(n + 1)
    os.execv(sys.executable, [sys.executable, *sys.argv])
sys.exit(5)
""", rc=5)


def test_exec_of_another_program(guard):
    quiet(guard, HEAD + "os.execvp('sh', ['sh', '-c', 'echo now a shell; exit 6'])\n", rc=6)


def test_a_daemonised_process(guard):
    """Double fork and setsid: it is no worker, and it may outlive the run."""
    path = os.path.join(guard.base, "daemon.pid")
    quiet(guard, HEAD + f"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2): os.close(fd)
        open({path!r}, "w").write(str(os.getpid()))
        time.sleep(1.0)
        os._exit(9)
    os._exit(0)
os.wait()
while not os.path.exists({path!r}): time.sleep(.01)
print("end"); os.unlink({path!r})
""")


def test_short_lived_children(guard):
    """Thousands of them: no report, no growth without bound, no failure."""
    r = quiet(guard, HEAD + """
for n in range(1500):
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
for n in range(60):
    subprocess.run(["true"])
print("end")
""", timeout=120)
    assert r.seconds < r.bare.seconds * 3 + 5, f"{r.seconds} against {r.bare.seconds}"


def test_short_lived_children_then_a_death(guard):
    """The newest matter: after thousands of births the death is still told."""
    path = script(guard, HEAD + """
def work():
    import ctypes; ctypes.string_at(0)
for n in range(1500):
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
p = mp.get_context("fork").Process(target=work); p.start(); p.join()
print("STATUS", p.exitcode)
""")
    from conftest import incident_of
    r = guard.both([sys.executable, path], timeout=120)
    incident_of(r, "worker_segfault", signo=signal.SIGSEGV)


def test_fork_from_a_thread(guard):
    quiet(guard, HEAD + """
def forker():
    for _ in range(20):
        pid = os.fork()
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
ts = [threading.Thread(target=forker) for _ in range(4)]
[t.start() for t in ts]; [t.join() for t in ts]
print("end")
""", same_err=False)


def test_handled_errors(guard):
    quiet(guard, HEAD + """
import errno, mmap
for f in (lambda: open("/nonexistent"), lambda: open("/proc/self/mem", "wb").write(b"x"),
          lambda: os.posix_fallocate(-1, 0, 1), lambda: mmap.mmap(-1, 1 << 62),
          lambda: os.kill(1 << 22, 0), lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"x")):
    try: f()
    except (OSError, MemoryError, OverflowError) as e: print(type(e).__name__)
""")


def test_sigterm_handled_by_the_trainer(guard):
    """A trainer that takes SIGTERM, saves and leaves with 0: nothing happened."""
    text = HEAD + """
def stop(*_): print("saving", flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("READY", flush=True)
time.sleep(60)
"""
    from conftest import wait_until

    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        os.kill(process.pid, signal.SIGTERM)
    r = guard.both([sys.executable, script(guard, text)], during=during)
    assert r.rc == 0 and "saving" in r.out
    assert_silent(r)


def test_switched_off(guard):
    r = guard.both(victim("segv_null"), env={"NNGUARD": "0"})
    assert_silent(r)
    assert not os.path.exists(r.dir)


def test_exported_preload_in_a_shell(guard):
    """export LD_PRELOAD, then ordinary tools: nothing printed, nothing left behind, no process."""
    directory = guard.new_dir()
    text = ("cd /; ls /etc >/dev/null; git --version >/dev/null; echo abc | grep -q b; "
            "echo abc | grep -q z || true; bash -c 'true'; find /etc -maxdepth 1 | sort | head -2 "
            ">/dev/null; sh -c 'kill -SEGV $$' 2>/dev/null; perl -e 'print 1' >/dev/null; tar --version "
            "| head -1 >/dev/null; gcc --version >/dev/null; cat /nonexistent 2>/dev/null; echo done; "
            "exit 3")
    env = clean_env({"NNGUARD_DIR": directory})
    bare = execute(["bash", "-c", text], env)
    r = execute(["bash", "-c", f"export LD_PRELOAD={LIB}; {text}"], env)
    r.dir = directory
    guard.settle(r)
    assert (r.rc, r.out) == (bare.rc, bare.out), str(r)
    assert re.sub(r"\d+", "N", r.err) == re.sub(r"\d+", "N", bare.err), str(r)
    assert_silent(r)
    assert not os.path.exists(directory), os.listdir(directory)


def test_two_pythons_under_an_exported_preload(guard):
    """Each Python of such a shell is a run of its own; healthy ones leave nothing."""
    directory = guard.new_dir()
    env = clean_env({"NNGUARD_DIR": directory})
    text = f"export LD_PRELOAD={LIB}; {sys.executable} -c 'print(1)'; {sys.executable} -c 'print(2)'"
    r = execute(["bash", "-c", text], env)
    r.dir = directory
    guard.settle(r)
    assert r.out == "1\n2\n" and r.err == "", str(r)
    assert_silent(r)


def test_match_widens_it(guard):
    """NNGUARD_MATCH guards a program that is not Python."""
    r = guard.both(["bash", "-c", "kill -ABRT $$"], env={"NNGUARD_MATCH": "bash"})
    assert r.rc == -signal.SIGABRT
    assert r.incidents and r.incidents[0]["process"]["role"] == "trainer", str(r)
    r = guard.both(["bash", "-c", "kill -ABRT $$"])
    assert_silent(r)


def test_the_run_is_not_slower_to_end(guard):
    """A healthy Python with the library ends within a fraction of a second of one without."""
    def best(run):
        times = []
        for _ in range(5):
            start = time.monotonic()
            run()
            times.append(time.monotonic() - start)
        return min(times)
    env = clean_env({"NNGUARD_DIR": guard.new_dir()})
    cmd = [sys.executable, "-c", "pass"]
    bare = best(lambda: subprocess.run(cmd, env=env, check=True))
    with_us = best(lambda: subprocess.run(cmd, env=dict(env, LD_PRELOAD=LIB), check=True))
    assert with_us - bare < 0.1, f"{with_us:.3f} against {bare:.3f}"


def test_output_ends_when_the_run_ends(guard):
    """$(... 2>&1) and | tee wait for every holder of the pipe."""
    r = guard.both([sys.executable, "-c", "print('x')"])
    assert r.seconds - r.ended < 0.5, f"the pipe was held {r.seconds - r.ended:.2f} s"
    r = guard.both(victim("segv_null"))
    assert r.seconds - r.ended < 1.0, f"the pipe was held {r.seconds - r.ended:.2f} s"
