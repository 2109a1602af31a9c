# SPDX-License-Identifier: MIT
"""Shared memory runs out: by SIGBUS, by ENOSPC with live workers, by a semaphore; and what only
looks like it."""
import os
import signal
import sys
import time

import pytest

from conftest import (as_nobody, assert_silent, fact, in_shm, incident_of, screen, torch_python,
                      victim, SYSTEM_PYTHON)

METHODS = ["fork", "spawn", "forkserver"]
BUS = signal.SIGBUS


def small(cmd):
    return in_shm("1m", cmd)


def check_numbers(incident, total=1 << 20, asked=64 << 10):
    assert fact(incident, "devshm.total_bytes") == total, incident["evidence"]
    assert 0 <= fact(incident, "devshm.free_bytes") < asked, incident["evidence"]


@pytest.mark.parametrize("method", METHODS)
def test_sigbus_of_shared_memory(guard, mounts, method):
    r = guard.both(victim("--method", method, "shared_memory"), wrap=small)
    i = incident_of(r, "shm_exhausted", signo=BUS, role="worker")
    check_numbers(i)
    text = screen(r)
    assert "/dev/shm" in text and "1.0 MiB" in text, str(r)
    assert i["fixes"] and i["fixes"][0]["kind"] == "root"
    assert any(line.startswith("Fix") for line in r.lines), str(r)


def test_sigbus_as_an_ordinary_user(guard, mounts, public):
    """An ordinary user cannot look behind /proc/PID/map_files; torch unlinks the name at once."""
    r = guard.both(victim("shared_memory", python=SYSTEM_PYTHON, script=public.victim),
                   wrap=lambda cmd: small(as_nobody(cmd)), env={"HOME": public.home}, cwd=public.home)
    i = incident_of(r, "shm_exhausted", signo=BUS, role="worker")
    check_numbers(i)


def test_sigbus_of_the_trainer(guard, mounts):
    r = guard.both(victim("--api", "self", "shared_memory"), wrap=small)
    assert r.rc == -BUS
    i = incident_of(r, "shm_exhausted", signo=BUS, role="trainer")
    check_numbers(i)


def test_sigbus_in_a_dataloader_of_an_old_torch(guard, mounts):
    python = torch_python("old")
    r = guard.both(victim("--api", "dataloader", "big_item", 8, python=python),
                   wrap=lambda cmd: in_shm("12m", cmd), timeout=60)
    i = incident_of(r, "shm_exhausted", role="worker", only=False)
    assert i["kind"] in ("death",)
    assert r.report["incidents"][r.report["root"]]["cause"] == "shm_exhausted"


def test_enospc_with_live_workers(guard, mounts):
    """The shape of torch from 2.10 on: nobody dies, so the first failure must be enough."""
    r = guard.guarded(victim("--patience", 6, "fallocate_shm", 4 << 20, 100), wrap=small, timeout=30)
    i = incident_of(r, "shm_exhausted", kind="stall", role="worker")
    check_numbers(i, asked=4 << 20)
    assert "8.0 MiB" not in screen(r) and "4.0 MiB" in screen(r), str(r)
    assert i["exit"]["signal"] is None and i["exit"]["code"] is None, i["exit"]
    assert r.said_at() < 3, f"said after {r.said_at()} s"
    assert i["count"] > 1
    # Once, not once a batch: one block, perhaps a last word.
    assert sum(1 for line in r.lines if line.startswith("certain")) <= 2, str(r)
    assert "STATUS nobody died" in r.out


def test_enospc_of_a_real_dataloader(guard, mounts):
    """torch 2.13: the DataLoader's worker passes the error on and the trainer fails with it."""
    python = torch_python("new")
    r = guard.guarded(victim("--api", "dataloader", "--patience", 8, "big_item", 8, python=python),
                      wrap=lambda cmd: in_shm("4m", cmd), timeout=60)
    kind = r.incidents[0]["kind"] if r.incidents else None
    assert kind in ("failure", "stall"), str(r)
    i = incident_of(r, "shm_exhausted", kind=kind)
    check_numbers(i, 4 << 20, 8 << 20)
    assert any("torch_" in str(e["value"]) for e in i["evidence"]), i["evidence"]


def test_semaphores_on_a_full_shm(guard, mounts):
    """sem_open itself fails: multiprocessing cannot even begin."""
    def full(cmd):
        return ["unshare", "-m", "sh", "-c",
                'mount -t tmpfs -o size=64k tmpfs /dev/shm && '
                '{ dd if=/dev/zero of=/dev/shm/filler bs=4k 2>/dev/null; exec "$@"; }', "sh", *cmd]
    r = guard.both(victim("--api", "self", "semaphore"), wrap=full)
    assert r.rc == 1 and "No space left" in r.err, str(r)
    incident_of(r, "shm_exhausted", kind=r.incidents[0]["kind"] if r.incidents else "stall")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_semaphores_of_a_worker_on_a_full_shm(guard, mounts, method):
    r = guard.both(victim("--method", method, "semaphore"), wrap=lambda cmd: in_shm("256k", cmd))
    incident_of(r, "shm_exhausted", kind=r.incidents[0]["kind"] if r.incidents else "death")


# ---- look-alikes ---------------------------------------------------------------------------------
def test_sent_sigbus_on_a_full_shm(guard, mounts):
    """kill -BUS while /dev/shm is full: sent, not shared memory."""
    def full(cmd):
        return ["unshare", "-m", "sh", "-c",
                'mount -t tmpfs -o size=1m tmpfs /dev/shm && '
                '{ dd if=/dev/zero of=/dev/shm/filler bs=4k count=240 2>/dev/null; exec "$@"; }',
                "sh", *cmd]
    r = guard.both(victim("raise_signal", 7), wrap=full)
    i = incident_of(r, "killed_by", ("certain", "likely"), signo=BUS)
    assert i["cause"] != "shm_exhausted"


def test_truncated_segment_on_a_full_shm(guard, mounts):
    """A segment cut short by another process: /dev/shm is full too, but that is not why."""
    r = guard.both(victim("mapped_then_truncated", "/dev/shm/psm_victim", 524288, 4096),
                   wrap=lambda cmd: ["unshare", "-m", "sh", "-c",
                                     'mount -t tmpfs -o size=1m tmpfs /dev/shm && '
                                     '{ dd if=/dev/zero of=/dev/shm/filler bs=4k count=125 '
                                     '2>/dev/null; exec "$@"; }', "sh", *cmd])
    i = incident_of(r, "file_truncated", ("certain", "likely"), signo=BUS)
    assert i["confidence"] == "certain", str(r)


def test_a_single_probe_is_no_incident(guard, mounts):
    r = guard.both(victim("--ignore", "probe_shm_once"), wrap=small)
    assert r.rc == 0 and "probe failed" in r.out, str(r)
    assert_silent(r)


def test_rawarray_falls_back_and_survives(guard, mounts):
    script = ("import multiprocessing as mp\n"
              "a = mp.RawArray('d', 1 << 19)\na[0] = 1.0\nprint(len(a))\n")
    r = guard.both([sys.executable, "-c", script], wrap=small)
    assert r.rc == 0 and "524288" in r.out
    assert_silent(r)


# ---- what the user gets --------------------------------------------------------------------------
def test_the_block_comes_at_once(guard, mounts):
    """The trainer lives on for three seconds after the death: the words do not wait for it."""
    r = guard.guarded(victim("--linger", 3, "shared_memory"), wrap=small)
    incident_of(r, "shm_exhausted", signo=BUS)
    assert r.seconds - r.said_at() > 2.5, f"{r.said_at()} of {r.seconds}"


def test_chinese(guard, mounts):
    r = guard.guarded(victim("shared_memory"), wrap=small, env={"NNGUARD_LANG": "zh"})
    text = screen(r)
    assert "/dev/shm" in text and any("\u4e00" <= c <= "\u9fff" for c in text), str(r)
    assert "died" not in text, str(r)


def test_chinese_by_locale(guard, mounts):
    r = guard.guarded(victim("shared_memory"), wrap=small,
                      env={"NNGUARD_LANG": "auto", "LANG": "zh_CN.UTF-8"})
    assert any("\u4e00" <= c <= "\u9fff" for c in screen(r)), str(r)


def test_ascii_where_the_locale_is_not_utf8(guard, mounts):
    r = guard.guarded(victim("shared_memory"), wrap=small, env={"LANG": "C", "LC_ALL": "C"})
    assert r.lines and screen(r).isascii(), str(r)


def test_quiet(guard, mounts):
    r = guard.guarded(victim("shared_memory"), wrap=small, env={"NNGUARD_QUIET": "1"})
    assert not r.lines, str(r)
    assert r.report["incidents"][0]["cause"] == "shm_exhausted"


def test_colour_only_when_asked(guard, mounts):
    r = guard.guarded(victim("shared_memory"), wrap=small, env={"NNGUARD_COLOR": "always"})
    assert "\x1b[" in r.err, str(r)


def test_stall_is_ended_when_asked(guard, mounts):
    """NNGUARD_ON_STALL=end: SIGINT first, then harder; the run does not hold its GPU for days."""
    started = time.monotonic()
    r = guard.guarded(victim("--patience", 60, "fallocate_shm", 4 << 20, 3), wrap=small, timeout=45,
                      env={"NNGUARD_ON_STALL": "end", "NNGUARD_STALL_S": "3"})
    assert not r.timed_out and time.monotonic() - started < 40, str(r)
    assert r.rc not in (0, None)
    assert r.report["incidents"][0]["cause"] == "shm_exhausted"
    assert r.report["incidents"][0]["kind"] == "stall"


def test_stall_is_left_alone_by_default(guard, mounts):
    r = guard.guarded(victim("--patience", 7, "fallocate_shm", 4 << 20, 3), wrap=small, timeout=45,
                      env={"NNGUARD_STALL_S": "2"})
    assert "STATUS nobody died" in r.out, str(r)
    assert r.rc == 0, str(r)


def test_holders_are_counted(guard, mounts):
    """Who holds it: the workers' own segments, although their names are gone."""
    script = f"""
import multiprocessing as mp, time, sys
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r} + "/victims")
from multiprocessing import shared_memory as shm
def hold(ready, bad, go):
    block = shm.SharedMemory(create=True, size=1 << 20)
    block.unlink()
    for at in range(0, 1 << 20, 4096): block.buf[at] = 1
    ready.release()
    if bad:
        go.wait()
        more = shm.SharedMemory(create=True, size=4 << 20)
        for at in range(0, 4 << 20, 4096): more.buf[at] = 1
    time.sleep(20)
if __name__ == "__main__":
    c = mp.get_context("fork")
    ready, go = c.Semaphore(0), c.Event()
    ps = [c.Process(target=hold, args=(ready, n == 0, go), daemon=True) for n in range(3)]
    [p.start() for p in ps]
    [ready.acquire() for p in ps]
    go.set()
    ps[0].join()
    print("STATUS exit", ps[0].exitcode, flush=True)
    [p.terminate() for p in ps]
"""
    path = f"{guard.base}/holders.py"
    with open(path, "w", encoding="ascii") as f:
        f.write(script)
    r = guard.both([sys.executable, path], wrap=lambda cmd: in_shm("5m", cmd))
    i = incident_of(r, "shm_exhausted", signo=BUS)
    held = fact(i, "devshm.held_by_run_bytes")
    assert held is not None and held >= 2 << 20, i["evidence"]
