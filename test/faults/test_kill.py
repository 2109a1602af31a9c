# SPDX-License-Identifier: MIT
"""Killed: by a sibling, from outside, by nobody that can be seen; the trainer too; and the endings
that a person wants."""
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import (alive, assert_silent, check_report, descendants, incident_of, leftovers, screen,
                      victim, wait_until)

KILL, TERM, INT, HUP = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP
METHODS = ["fork", "spawn", "forkserver"]


def workers_of(path):
    with open(path, encoding="ascii") as f:
        return [int(line) for line in f.read().split()]


class Kill:
    """A `during` that waits for READY and kills worker number n."""

    def __init__(self, pids, number=KILL, n=0, by=None):
        self.pids, self.number, self.n, self.by = pids, number, n, by
        self.killer = self.victim = None

    def __call__(self, process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20), result.peek()
        time.sleep(0.15)
        self.victim = workers_of(self.pids)[self.n]
        if self.by:
            done = subprocess.Popen([self.by, "-c", f"import os; os.kill({self.victim}, {self.number})"])
            self.killer = done.pid
            done.wait()
        else:
            self.killer = os.getpid()
            os.kill(self.victim, self.number)


@pytest.fixture
def pids(base):
    return os.path.join(base, "pids")


@pytest.mark.parametrize("method", METHODS)
def test_a_sibling_kills_a_worker(guard, pids, method):
    """Certain, with pid and name: our own record of the kill."""
    r = guard.both(victim("--method", method, "--pids", pids, "--ready", "--workers", 3, "after", "0.3",
                          "kill_sibling", 9))
    i = incident_of(r, "killed_by", signo=KILL, role="worker")
    others = workers_of(pids)
    assert str(others[0]) in screen(r) or str(others[0]) in str(i["evidence"]), str(r)
    assert i["process"]["pid"] in others


@pytest.mark.parametrize("method", METHODS)
def test_sigkill_from_outside(guard, pids, method):
    """No sender, no OOM: say exactly that."""
    during = Kill(pids)
    r = guard.both(victim("--method", method, "--pids", pids, "--ready", "--workers", 3, "idle"),
                   during=during)
    i = incident_of(r, "killed_unknown", "unknown", signo=KILL, role="worker")
    assert i["process"]["pid"] == during.victim
    assert i["process"]["start_method"] == method
    assert i["process"]["ordinal"] == 1 and i["process"]["of"] == 3, i["process"]
    text = screen(r)
    assert "SIGKILL" in text
    assert any(line.startswith("Next") or line.startswith("Fix") for line in r.lines), str(r)
    assert not any(f["kind"] == "root" and "memory" in (f["command"] or "") for f in i["fixes"])


def test_sigterm_from_outside_names_the_sender(guard, pids):
    during = Kill(pids, TERM, by=sys.executable)
    r = guard.both(victim("--pids", pids, "--ready", "idle"), during=during)
    i = incident_of(r, "killed_by", signo=TERM, role="worker")
    assert str(during.killer) in screen(r), str(r)


def test_sigterm_from_outside_that_lives_names_it_by_name(guard, pids):
    """The sender is still alive when we look: its name is told as well."""
    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        time.sleep(0.1)
        during.sender = subprocess.Popen(
            ["bash", "-c", f"kill -TERM {workers_of(pids)[0]}; read x"], stdin=subprocess.PIPE)
        wait_until(lambda: not alive(workers_of(pids)[0]), 5)
        time.sleep(1)
        during.sender.communicate()
    r = guard.guarded(victim("--pids", pids, "--ready", "--linger", 1, "idle"), during=during)
    i = incident_of(r, "killed_by", signo=TERM)
    assert "bash" in screen(r) + str(i["evidence"]), str(r)
    assert str(during.sender.pid) in screen(r)


def test_sighup_from_outside(guard, pids):
    r = guard.both(victim("--pids", pids, "--ready", "idle"), during=Kill(pids, HUP))
    incident_of(r, "killed_by", signo=HUP, role="worker")


def test_usr1_from_outside(guard, pids):
    """A signal we have no handler for: it came from somewhere, the sender is not known."""
    r = guard.both(victim("--pids", pids, "--ready", "idle"), during=Kill(pids, signal.SIGUSR1))
    i = r.report["incidents"][0]
    check_report(r.report)
    assert i["exit"]["signal"] == signal.SIGUSR1
    assert i["cause"] in ("killed_by", "killed_unknown", "unknown") and i["confidence"] != "certain", str(r)


def test_pool_worker_killed_from_outside(guard, pids):
    def during(process, result):
        assert wait_until(lambda: os.path.exists(pids), 20)
        during.pid = workers_of(pids)[0]
        os.unlink(pids)
        os.kill(during.pid, KILL)
    r = guard.both(victim("--api", "pool", "--patience", 4, "busy", pids), during=during)
    i = incident_of(r, "killed_unknown", "unknown", signo=KILL, role="worker")
    assert i["process"]["pid"] == during.pid


def test_two_killed_the_first_is_the_root(guard, pids):
    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        time.sleep(0.1)
        first, second = workers_of(pids)[1], workers_of(pids)[0]
        during.first = first
        os.kill(first, signal.SIGSEGV)
        time.sleep(0.01)
        os.kill(second, KILL)
    r = guard.guarded(victim("--pids", pids, "--ready", "--workers", 3, "idle"), during=during)
    report = r.report
    check_report(report)
    root = report["incidents"][report["root"]]
    assert root["process"]["pid"] == during.first, str(r)


def test_consequences_are_listed(guard, pids):
    """The trainer's SIGTERM to the others is a consequence of the first death."""
    during = Kill(pids)
    r = guard.guarded(victim("--pids", pids, "--ready", "--workers", 4, "idle"), during=during)
    i = incident_of(r, "killed_unknown", "unknown", signo=KILL)
    others = [pid for pid in workers_of(pids) if pid != during.victim]
    assert sorted(c["pid"] for c in i["consequences"]) == sorted(others), i["consequences"]
    assert all(c["signal"] == TERM for c in i["consequences"])


# ---- the trainer ---------------------------------------------------------------------------------
def test_the_trainer_is_killed(guard, pids):
    """Nothing inside it can tell; the words come at once, since there is no later."""
    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        os.kill(process.pid, KILL)
    r = guard.both(victim("--pids", pids, "--ready", "idle"), during=during)
    assert r.rc == -KILL
    i = incident_of(r, "killed_unknown", "unknown", signo=KILL, role="trainer")
    assert i["process"]["pid"] == r.report["run"]["root_pid"]
    assert r.report["root"] == r.report["incidents"].index(i)
    assert r.said_at() < r.ended + 0.5, f"{r.said_at()} after an end at {r.ended}"


def test_sigterm_to_the_trainer(guard):
    """A scheduler's or a person's SIGTERM: one short block."""
    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        os.kill(process.pid, TERM)
    r = guard.both(victim("--ready", "idle"), during=during)
    assert r.rc == -TERM
    i = incident_of(r, "interrupted", ("certain", "likely"), signo=TERM, role="trainer", kind="death",
                    only=True)
    assert len(r.lines) <= 8, str(r)
    assert i["cause"] == "interrupted"


def test_sighup_to_the_trainer(guard):
    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        os.kill(process.pid, HUP)
    r = guard.both(victim("--ready", "idle"), during=during)
    assert r.rc == -HUP
    incident_of(r, "interrupted", ("certain", "likely"), signo=HUP, role="trainer")
    assert "tmux" in screen(r) or "nohup" in screen(r) or "terminal" in screen(r), str(r)


def test_everything_killed_together(guard, pids):
    """Root, workers and our own monitor at the same instant: the journal alone remains."""
    directory = guard.new_dir()

    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        time.sleep(0.2)
        targets = {process.pid, *descendants(process.pid), *[pid for pid, _ in leftovers(directory)]}
        for pid in targets:
            os.kill(pid, signal.SIGSTOP)
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, KILL)
    r = guard.guarded(victim("--pids", pids, "--ready", "idle"), during=during, directory=directory)
    assert r.rc == -KILL and len(r.runs) == 1, str(r)
    assert os.path.exists(os.path.join(r.runs[0], "journal"))
    shown = guard.nnguard("report", directory=directory)
    assert shown.rc == 0 and shown.out.strip(), str(shown)
    assert "kill" in shown.out.lower() or "ended without a word" in shown.out.lower(), str(shown)
    as_json = guard.nnguard("report", "--json", directory=directory)
    import json
    report = json.loads(as_json.out)
    check_report(report)
    assert report["run"]["root_pid"] == r.pid
    assert all(i["confidence"] != "certain" for i in report["incidents"]), report["incidents"]


def test_the_next_run_tells_of_it(guard, pids):
    """The next guarded run in the same folder says that the last one ended without a word."""
    directory = guard.new_dir()

    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        time.sleep(0.2)
        for pid in {process.pid, *descendants(process.pid), *[p for p, _ in leftovers(directory)]}:
            with contextlib.suppress(ProcessLookupError):  # it may have ended with the root
                os.kill(pid, KILL)
    guard.guarded(victim("--ready", "idle"), during=during, directory=directory)
    wait_until(lambda: not leftovers(directory), 5)
    shown = guard.nnguard("report", directory=directory)
    assert shown.rc == 0, str(shown)


def test_the_monitor_alone_is_killed(guard, pids):
    """Without its monitor the run goes on as if we were not there; report tells of the death later."""
    directory = guard.new_dir()

    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        time.sleep(0.2)
        inside = {process.pid, *descendants(process.pid)}
        monitors = [pid for pid, _ in leftovers(directory) if pid not in inside]
        assert monitors, leftovers(directory)
        for pid in monitors:
            os.kill(pid, KILL)
        time.sleep(0.2)
        os.kill(workers_of(pids)[0], KILL)
    r = guard.guarded(victim("--pids", pids, "--ready", "idle"), during=during, directory=directory)
    assert r.rc == 1 and r.ended < 15, str(r)
    shown = guard.nnguard("report", directory=directory)
    assert shown.rc == 0 and "SIGKILL" in shown.out, str(shown)


# ---- endings that a person or the program wanted -------------------------------------------------
def test_ctrl_c_to_the_group(guard):
    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        time.sleep(0.1)
        os.killpg(process.pid, INT)
    r = guard.both(victim("--ready", "--workers", 3, "idle"), during=during, compare=False)
    assert r.rc == r.bare.rc == -INT, str(r)
    assert_silent(r)


def test_sigint_to_the_trainer(guard):
    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        os.kill(process.pid, INT)
    r = guard.both(victim("--ready", "idle"), during=during)
    assert r.rc == -INT
    assert_silent(r)


def test_killed_while_an_unrelated_oom_happens(guard, pids, memory_cgroup):
    """kill -9 of a worker while the OOM killer strikes elsewhere in the same cgroup: the count rose,
    yet it was not ours. Never certain."""
    group = memory_cgroup
    group.limit_memory(200 << 20)

    def during(process, result):
        assert wait_until(lambda: "READY" in result.peek_out(), 20)
        before = group.kills()
        eater = subprocess.Popen(group.wrap([sys.executable, victim()[1], "--api", "self", "eat", "1000"]),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: group.kills() > before, 15, 0.001)
        os.kill(workers_of(pids)[0], KILL)
        eater.wait()
    r = guard.guarded(victim("--pids", pids, "--ready", "idle"), during=during, wrap=group.wrap)
    check_report(r.report)
    i = r.report["incidents"][0]
    assert i["process"]["pid"] == workers_of(pids)[0], str(r)
    assert not (i["cause"] == "cgroup_oom" and i["confidence"] == "certain"), str(r)
