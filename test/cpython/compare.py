#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""CPython's own tests, with and without the library, compared by the name of each test.

    compare.py --build DIR [--full] [--limit SECONDS] [--report FILE] [--python PATH]...

A test that fails with the library and passes without it is run twice more, alone, both ways. It counts
as a new failure when it fails again with the library while it passes both times without; else it is
named as unsteady. A test that exists only in the bare run is a failure too: a module that crashed
half-way must not look well. Suites are a weak gate (they miss a wiped signal table), so the project has
transparency tests of its own beside them.
"""
import argparse
import collections
import concurrent.futures
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree

# What `make check` has time for; the slow rest is for `make check-cpython`.
SHORT = ["test_subprocess", "test_signal", "test_faulthandler", "test_threading", "test_mmap",
         "test_posix", "test_multiprocessing_forkserver"]
SLOWEST = "test_multiprocessing_forkserver"  # in the short run on the first Python only
FULL = SHORT + ["test_multiprocessing_fork", "test_multiprocessing_spawn", "test_concurrent_futures"]
Job = collections.namedtuple("Job", "python module guarded match")


def probe(path):
    """(version, modules it can test) of a Python, or None."""
    code = ("import importlib.util as u, sys\n"
            "print('%d.%d.%d' % sys.version_info[:3])\n"
            "has = lambda n: u.find_spec(n) is not None\n"
            "ok = has('test') and has('test.__main__')\n"
            f"print(' '.join(m for m in {FULL!r} if ok and has('test.' + m)))\n")
    try:
        done = subprocess.run([path, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=30, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version, modules = done.stdout.splitlines()[:2]
    return tuple(map(int, version.split("."))), modules.split()


def discover():
    """One modern Python and one of 3.8 to 3.10: between them lie the changes that matter to us (vfork in
    subprocess, the package layout of the tests). Where one is lacking the next best stands in."""
    paths = glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python3"))
    for folder in os.environ.get("PATH", "").split(os.pathsep) + ["/usr/bin", "/usr/local/bin"]:
        if "shims" not in folder:
            paths += glob.glob(os.path.join(folder, "python3")) + glob.glob(
                os.path.join(folder, "python3.[0-9]*[0-9]"))
    found = {}
    for path in paths:
        real = os.path.realpath(path)
        if real not in found and os.access(real, os.X_OK):
            known = probe(real)
            if known and known[0] >= (3, 8) and known[1]:
                found[real] = known
    # More of the modules first, then the newer.
    ranked = sorted(found, key=lambda p: (len(found[p][1]), found[p][0]), reverse=True)
    new = [p for p in ranked if found[p][0] >= (3, 11)]
    old = [p for p in ranked if found[p][0] < (3, 11)]
    chosen = (new[:1] + old[:1]) or []
    for path in ranked:
        if len(chosen) < 2 and path not in chosen:
            chosen.append(path)
    return {path: found[path] for path in chosen}


class Comparison:
    def __init__(self, build, limit, module_limit):
        self.library = os.path.join(build, "libnnguard.so")
        self.end = time.monotonic() + limit
        self.module_limit = module_limit
        self.base = tempfile.mkdtemp(prefix="nng-cpython-")
        self.count = 0
        self.lock = threading.Lock()
        self.running = set()

    def environment(self, folder, guarded):
        env = {name: value for name, value in os.environ.items()
               if not name.startswith(("NNGUARD", "NNG_", "PYTHON")) and name != "LD_PRELOAD"}
        env["TMPDIR"] = folder
        if guarded:
            env["LD_PRELOAD"] = self.library
            env["NNGUARD_DIR"] = os.path.join(folder, "guard")
        return env

    def run(self, job):
        """{test name: passed|failed|skipped}, and what the module printed. A module that did not end by
        itself has an entry '(module)' that failed."""
        with self.lock:
            self.count += 1
            folder = os.path.join(self.base, str(self.count))
        os.mkdir(folder)
        xml, log = os.path.join(folder, "junit.xml"), os.path.join(folder, "log")
        left = max(5, min(self.module_limit, self.end - time.monotonic()))
        command = [job.python, "-m", "test", "--junit-xml", xml]
        for name in job.match:
            command += ["-m", name]
        with open(log, "wb") as out:
            process = subprocess.Popen(command + [job.module], cwd=folder, stdout=out,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       env=self.environment(folder, job.guarded),
                                       start_new_session=True)
            with self.lock:
                self.running.add(process.pid)
            try:
                status = process.wait(timeout=left)
            except subprocess.TimeoutExpired:
                status = None
            end_session(process.pid)
            process.wait()
            with self.lock:
                self.running.discard(process.pid)
        outcome = read_junit(xml)
        if status is None:
            outcome["(module)"] = "failed"
            words = f"no end within {left:.0f} s"
        elif not outcome or status < 0:
            outcome["(module)"] = "failed"
            words = f"ended with status {status}"
        else:
            words = ""
        with open(log, encoding="utf-8", errors="replace") as text:
            return outcome, words, text.read()

    def close(self):
        for pid in list(self.running):
            end_session(pid)
        shutil.rmtree(self.base, ignore_errors=True)


def end_session(leader):
    """End whatever a module left behind in its session: only what we started has this session id."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.getsid(int(name)) == leader:
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                pass


def read_junit(path):
    outcome = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = re.sub(r"&#(\d+|x[0-9a-fA-F]+);|[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", file.read())
        root = ElementTree.fromstring(text)
    except (OSError, ElementTree.ParseError):
        return outcome
    for case in root.iter("testcase"):
        # setUpClass, subTest and module failures have names with spaces and numbers: keep the stem.
        name = re.sub(r" \(.*", "", case.get("name", "?"))
        if case.find("failure") is not None or case.find("error") is not None:
            outcome[name] = "failed"
        elif case.find("skipped") is not None:
            outcome.setdefault(name, "skipped")
        else:
            outcome.setdefault(name, "passed")
    return outcome


def compare(comparison, python, module, bare, guarded):
    """(number compared, [new failures], [remarks])"""
    bare_outcome, bare_words, _ = bare
    outcome, words, log = guarded
    new, remarks = [], []
    suspects = [name for name in sorted(bare_outcome)
                if bare_outcome[name] != "failed" and
                outcome.get(name, "failed") != bare_outcome[name] and name != "(module)"]
    if outcome.get("(module)") == "failed" and bare_outcome.get("(module)") != "failed":
        suspects = suspects or ["(module)"]
    if bare_outcome.get("(module)") == "failed":
        remarks.append(f"{module}: {bare_words}, also without the library")
    if suspects and (words or len(suspects) > 20):
        # The whole module went down: no single test can be run in its stead.
        print(log[-4000:])
        new.append(f"{module}: {words or 'many tests'} with the library only; "
                   f"{len(suspects)} tests differ, first {suspects[0]}")
        return len(outcome), new, remarks
    for name in suspects:
        match = [name] if name != "(module)" else []
        with_us = [comparison.run(Job(python, module, True, match))[0].get(name) for _ in range(2)]
        without = [comparison.run(Job(python, module, False, match))[0].get(name) for _ in range(2)]
        expected = bare_outcome.get(name)
        if without == [expected] * 2 and with_us != [expected] * 2:
            print(log[-4000:])
            new.append(f"{module}: {name} ({expected} without, {outcome.get(name, 'absent')} with, "
                       f"again alone {with_us})")
        else:
            remarks.append(f"{module}: {name} is unsteady by itself (first {outcome.get(name)}; alone "
                           f"with {with_us}, without {without})")
    return len(outcome) - len(new), new, remarks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--limit", type=float, default=7200)
    parser.add_argument("--report")
    parser.add_argument("--python", action="append")
    parser.add_argument("module", nargs="*")
    arguments = parser.parse_args()
    lines = []
    wanted = arguments.module or (FULL if arguments.full else SHORT)
    if arguments.python:
        pythons = {path: probe(path) for path in arguments.python}
    else:
        pythons = discover()
    for missing in range(len(pythons), 2 if not arguments.python else 0):
        lines.append(f"skipped Python number {missing + 1}: no further Python with CPython's own tests "
                     "found (libpython3-testsuite, pyenv)")
    build = os.path.abspath(arguments.build)
    if not os.path.exists(os.path.join(build, "libnnguard.so")):
        sys.exit(f"{build}/libnnguard.so is not there")
    comparison = Comparison(build, arguments.limit, 1500 if arguments.full else 200)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    compared = 0
    try:
        # Two lanes: the bare and the guarded run of a module go side by side, so that both meet the
        # same load.
        with concurrent.futures.ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as lanes:
            pending = []
            for module in wanted:
                for python, (version, modules) in pythons.items():
                    label = "%d.%d.%d" % version
                    if module == SLOWEST and not arguments.full and python != next(iter(pythons)):
                        continue
                    if module not in modules:
                        lines.append(f"skipped {label} {module}: this Python was built without it")
                        continue
                    pair = [lanes.submit(timed_run, comparison, Job(python, module, guarded, []))
                            for guarded in (False, True)]
                    pending.append((python, label, module, pair))
            for python, label, module, pair in pending:
                bare, guarded = (future.result() for future in pair)
                if bare is None or guarded is None:
                    lines.append(f"skipped {label} {module}: no time left (make check-cpython runs all)")
                    continue
                number, new, remarks = compare(comparison, python, module, bare, guarded)
                compared += number
                lines += [f"failed {label} {entry}" for entry in new]
                print(f"{label} {module}: {number} as without us, {len(new)} new failures", flush=True)
                for remark in remarks:
                    print(f"  {label} {remark}", flush=True)
    finally:
        comparison.close()
    lines.insert(0, f"passed {compared}")
    if arguments.report:
        with open(arguments.report, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 1 if any(line.startswith("failed") for line in lines) else 0


def timed_run(comparison, job):
    """None when the time is nearly up: a module cut short would only look like a failure."""
    if comparison.end - time.monotonic() < min(comparison.module_limit, 100):
        return None
    return comparison.run(job)


if __name__ == "__main__":
    sys.exit(main())
