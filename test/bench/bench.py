#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What nnguard costs, as a table of figures beside their goals:  bench.py [--build DIR] [--only WORD] [--quick]

Everything is a comparison within this run: bare and guarded take turns, so that a busy machine slows
both. Figures of different runs or machines do not compare; ratios and differences do.
"""
import argparse
import contextlib
import glob
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from rescue import rescue

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


class Bench:
    def __init__(self, build, quick):
        self.library = os.path.join(build, "libnnguard.so")
        self.quick = quick
        self.base = tempfile.mkdtemp(prefix="nng-bench-")
        self.program = os.path.join(self.base, "hooks")
        self.python = sys.executable
        self.rows = []

    def close(self):
        shutil.rmtree(self.base, ignore_errors=True)

    def times(self, many, few):
        return few if self.quick else many

    def env(self, guarded, **settings):
        env = {name: value for name, value in os.environ.items()
               if not name.startswith("NNGUARD") and name not in ("LD_PRELOAD", "PYTHONFAULTHANDLER")}
        env.update(OMP_WAIT_POLICY="PASSIVE", LC_ALL="C")
        if guarded:
            env.update(LD_PRELOAD=self.library, NNGUARD_DIR=os.path.join(self.base, "guard"))
        env.update(settings)
        return env

    def row(self, what, figure, bare, goal, good=None):
        mark = "" if good is None else ("yes" if good else "NO")
        self.rows.append((what, figure, bare, goal, mark))
        print(f"  {what:<46} {figure:>16}   bare {bare:>12}   goal {goal:<14} {mark}", flush=True)


def alternate(count, measure):
    """measure(guarded) count times in turn, the first pair thrown away: (bare list, guarded list)."""
    bare, guarded = [], []
    for index in range(count + 1):
        pair = {}
        for side in ((False, True) if index % 2 else (True, False)):
            pair[side] = measure(side)
        if index:
            bare.append(pair[False])
            guarded.append(pair[True])
    return bare, guarded


def median_difference(bare, guarded):
    return statistics.median(g - b for b, g in zip(bare, guarded))


def p99(values):
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


# ---- one call ------------------------------------------------------------------------------------
def hook_environment(bench, guarded):
    # The program is no Python: the setting makes it one of the guarded. No monitor: its own work is
    # measured below, by itself.
    extra = {"NNGUARD_MATCH": "hooks", "NNGUARD_MONITOR": "0"} if guarded else {}
    return bench.env(guarded, **extra)


def hooks(bench):
    """cost of a hook"""
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-O2", os.path.join(HERE, "hooks.c"), "-o", bench.program],
                   check=True)
    listing = subprocess.run([bench.program], check=True, text=True, stdout=subprocess.PIPE).stdout
    for line in listing.splitlines():
        number, kind, name = line.split("\t")

        def measure(guarded, number=number):
            done = subprocess.run([bench.program, number, "20000", "7"], check=True, text=True,
                                  stdout=subprocess.PIPE, cwd=bench.base,
                                  env=hook_environment(bench, guarded))
            return float(done.stdout)
        bare, guarded = alternate(bench.times(9, 3), measure)
        more = median_difference(bare, guarded)
        goal = {"recorded": 50, "unrecorded": 5}.get(kind)
        bench.row(f"{kind}: {name}", f"{more:+.0f} ns", f"{statistics.median(bare):.0f} ns",
                  f"<= {goal} ns" if goal else "0", None if goal is None else more <= goal)
    if shutil.which("valgrind"):
        instructions(bench, listing)
    else:
        print("  (no valgrind: instructions are not counted)")


def instructions(bench, listing):
    """callgrind counts the same every time: N calls against 2N calls, with and without."""
    def count(number, calls, guarded):
        done = subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
                               bench.program, number, str(calls)], text=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, cwd=bench.base, timeout=120,
                              env=hook_environment(bench, guarded))
        found = re.search(r"Collected : (\d+)", done.stderr)
        return int(found.group(1)) if found else None
    for line in listing.splitlines():
        number, kind, name = line.split("\t")
        each = {}
        for guarded in (False, True):
            once, twice = (count(number, calls, guarded) for calls in (1000, 2000))
            each[guarded] = (twice - once) / 1000 if once and twice else None
        if None in each.values():
            print(f"  (callgrind gave no count for {name})")
            continue
        bench.row(f"instructions, {kind}: {name}", f"{each[True] - each[False]:+.0f}",
                  f"{each[False]:.0f}", "(told only)")


# ---- start ---------------------------------------------------------------------------------------
def spawn_ms(command, env):
    begin = time.perf_counter()
    pid = os.posix_spawn(command[0], command, env)
    _, status = os.waitpid(pid, 0)
    took = (time.perf_counter() - begin) * 1e3
    if status:
        raise RuntimeError(f"{command}: status {status}")
    return took


def start(bench):
    """start of a program"""
    python = [os.path.realpath(bench.python), "-S", "-c", "pass"]
    for name, command, count, goal in (("Python", python, 60, 1.0),
                                       ("/bin/true, exported preload", ["/bin/true"], 400, 0.1)):
        bare, guarded = alternate(bench.times(count, count // 6),
                                  lambda side, command=command: spawn_ms(command, bench.env(side)))
        more = median_difference(bare, guarded)
        bench.row(f"start of {name}", f"{more:+.2f} ms", f"{statistics.median(bare):.2f} ms",
                  f"<= {goal} ms", more <= goal)


# ---- a death -------------------------------------------------------------------------------------
def one_death(bench, python, how, guarded, torch):
    """(ms from the death to our first word or None, ms from the death to the parent's wait)."""
    command = [python, os.path.join(HERE, "victim.py"), how] + (["torch"] if torch else [])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=bench.env(guarded), start_new_session=True)
    seen = []

    def watch():
        while True:
            chunk = os.read(process.stderr.fileno(), 65536)
            if not chunk:
                return
            if b"nnguard: " in chunk:
                seen.append(time.monotonic_ns())
    reader = threading.Thread(target=watch)
    reader.start()
    try:
        words = process.stdout.read().split()
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        reader.join(timeout=5)
        process.stdout.close()
        process.stderr.close()
    dead, reaped = map(int, words)
    return (seen[0] - dead) / 1e6 if seen else None, (reaped - dead) / 1e6


def death(bench):
    """from a death to the words"""
    for how, name in (("segv", "segfault"), ("kill", "SIGKILL from outside")):
        times = [one_death(bench, bench.python, how, True, False)[0]
                 for _ in range(bench.times(30, 5))]
        told = [value for value in times if value is not None]
        if not told:
            bench.row(f"death to block, {name}", "never said", "-", "<= 10 ms", False)
            continue
        middle = statistics.median(told)
        bench.row(f"death to block, {name}: median", f"{middle:.1f} ms", "-", "<= 10 ms", middle <= 10)
        bench.row(f"death to block, {name}: p99 of {len(told)}", f"{p99(told):.1f} ms", "-", "(told only)")
        if len(told) < len(times):
            bench.row(f"death to block, {name}: unsaid", f"{len(times) - len(told)}", "-", "0", False)


def hold(bench):
    """how long a crashing process is held"""
    torch_python = os.path.join(ROOT, "build/venv-nnunet/bin/python")
    cases = [("plain Python", bench.python, False, bench.times(15, 4), 60)]
    if os.path.exists(torch_python):
        cases.append(("with torch", torch_python, True, bench.times(6, 2), 150))
    else:
        print("  (no build/venv-nnunet: not measured with torch)")
    for name, python, torch, count, goal in cases:
        bare, guarded = alternate(count, lambda side, p=python, t=torch: one_death(
            bench, p, "segv", side, t)[1])
        more = median_difference(bare, guarded)
        bench.row(f"crash to the parent's wait, {name}", f"{more:+.0f} ms",
                  f"{statistics.median(bare):.1f} ms", f"<= {goal} ms", more <= goal)


# ---- the monitor ---------------------------------------------------------------------------------
IDLE = ("import multiprocessing, time\n"
        "def work():\n    time.sleep(60)\n"
        "c = multiprocessing.get_context('fork')\n"
        "w = [c.Process(target=work, daemon=True) for _ in range(6)]\n"
        "[p.start() for p in w]\n"
        "time.sleep(%d)\n"
        "[p.kill() for p in w]\n")


def monitors(folder):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            with open(path, "rb") as file:
                words = file.read().split(b"\0")
            with open(path.replace("cmdline", "maps"), "rb") as file:
                ours = folder.encode() in file.read()
            if b"monitor" in words and (ours or folder.encode() in b" ".join(words)):
                found.append(int(path.split("/")[2]))
    return found


def monitor(bench):
    """the monitor's own weight"""
    seconds = bench.times(20, 6)
    env = bench.env(True)
    process = subprocess.Popen([bench.python, "-c", IDLE % (seconds + 3)], env=env)
    try:
        time.sleep(1.5)
        pids = monitors(env["NNGUARD_DIR"])
        if len(pids) != 1:
            bench.row("monitor", f"{len(pids)} found", "-", "1", False)
            return

        def used():
            with open(f"/proc/{pids[0]}/stat", encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
            with open(f"/proc/{pids[0]}/schedstat", encoding="ascii") as file:
                return int(file.read().split()[0]) / 1e9 or (int(fields[11]) + int(fields[12])) / 100
        begin, cpu = time.monotonic(), used()
        time.sleep(seconds)
        percent = (used() - cpu) / (time.monotonic() - begin) * 100
        with open(f"/proc/{pids[0]}/status", encoding="ascii") as file:
            rss = int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024
        bench.row("monitor's memory (RSS), 6 workers", f"{rss:.2f} MB", "-", "<= 4 MB", rss <= 4)
        bench.row(f"monitor's CPU over {seconds} s", f"{percent:.3f} %", "-", "<= 0.1 %", percent <= 0.1)
    finally:
        # It ends by itself: a run that is killed is an incident.
        process.wait()


# ---- the trainer ---------------------------------------------------------------------------------
def epoch(bench):
    """an epoch of the real nnU-Net"""
    venv = os.path.join(ROOT, "build/venv-nnunet/bin")
    if not os.path.exists(os.path.join(venv, "nnUNetv2_train")):
        print("  (no build/venv-nnunet: not measured)")
        return
    data = subprocess.run(["bash", os.path.join(ROOT, "scripts/prepare_trainer.sh")], check=True, text=True,
                          env=bench.env(False), stdout=subprocess.PIPE).stdout.split()[-1]

    def measure(guarded):
        results = os.path.join(bench.base, "results")
        shutil.rmtree(results, ignore_errors=True)
        env = bench.env(guarded, nnUNet_raw=f"{data}/raw", nnUNet_preprocessed=f"{data}/preprocessed",
                        nnUNet_results=results, OMP_NUM_THREADS="1")
        done = subprocess.run([os.path.join(venv, "nnUNetv2_train"), "1", "2d", "0", "-tr",
                               "nnUNetTrainer_1epoch", "-device", "cpu"], env=env, timeout=600,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        found = re.search(r"Epoch time: ([\d.]+) s", done.stdout)
        if done.returncode or not found:
            raise RuntimeError(f"nnU-Net ended with {done.returncode}: {done.stdout[-600:]}")
        return float(found.group(1))
    bare, guarded = alternate(bench.times(3, 1), measure)
    ratio = statistics.median(g / b for b, g in zip(bare, guarded))
    bench.row(f"nnU-Net epoch, {len(bare)} pairs", f"x {ratio:.3f}", f"{statistics.median(bare):.1f} s",
              "(told only)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parts = (hooks, start, death, hold, monitor, rescue, epoch)
    parser.add_argument("--only", choices=[part.__name__ for part in parts], action="append")
    arguments = parser.parse_args()
    bench = Bench(os.path.abspath(arguments.build), arguments.quick)
    if not os.path.exists(bench.library):
        sys.exit(f"{bench.library} is not there: make")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = []
    try:
        for part in parts:
            if arguments.only and part.__name__ not in arguments.only:
                continue
            print(f"{part.__doc__}", flush=True)
            try:
                part(bench)
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                print(f"  not measured: {error}")
                failed.append(part.__name__)
    finally:
        bench.close()
    met = sum(1 for row in bench.rows if row[4] == "yes")
    missed = [row[0] for row in bench.rows if row[4] == "NO"]
    print(f"\n{met} goals met, {len(missed)} missed" + "".join(f"\n  missed: {name}" for name in missed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
