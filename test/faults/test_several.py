# SPDX-License-Identifier: MIT
"""Several deaths in one run: different failures are told apart, the same one again is counted, and the end
is put down to the one that the trainer ended by."""
import os
import sys

HEAD = "import ctypes, multiprocessing as mp, os, sys, time\n"


def run(guard, text):
    path = os.path.join(guard.base, "several.py")
    with open(path, "w", encoding="ascii") as f:
        f.write(HEAD + text)
    return guard.both([sys.executable, path])


def test_two_exceptions_are_two_incidents(guard):
    r = run(guard, """
def a(): raise ValueError("bad sample 17, skipped by design")
def b(): raise KeyError("fatal: label map missing")
if __name__ == "__main__":
    for f in (a, b):
        p = mp.Process(target=f); p.start(); p.join(); time.sleep(1)
    sys.exit(1)
""")
    report = r.report
    assert [i["count"] for i in report["incidents"]] == [1, 1], str(r)
    assert "ValueError" in report["incidents"][0]["summary"]["en"]
    assert "KeyError" in report["incidents"][1]["summary"]["en"]
    assert report["root"] == 1, str(r)
    assert "run failed because of a Python exception (KeyError)" in r.err, str(r)


def test_same_exception_again_is_counted(guard):
    r = run(guard, """
def a(i): raise ValueError("bad sample %d" % i)
if __name__ == "__main__":
    for i in range(4):
        p = mp.Process(target=a, args=(i,)); p.start(); p.join(); time.sleep(0.2)
    sys.exit(1)
""")
    assert [i["count"] for i in r.report["incidents"]] == [4], str(r)


def test_end_is_put_down_to_what_the_trainer_names(guard):
    r = run(guard, """
def a(): os._exit(7)
def b(): time.sleep(3); ctypes.string_at(0)
if __name__ == "__main__":
    q = mp.Process(target=b); q.start()
    p = mp.Process(target=a); p.start(); p.join()
    q.join()
    raise RuntimeError("the data worker died with %d" % q.exitcode)
""")
    report = r.report
    assert [i["cause"] for i in report["incidents"]] == ["worker_exit", "worker_segfault"], str(r)
    assert report["root"] == 1, str(r)


def test_nothing_names_one_of_two_causes(guard):
    r = run(guard, """
def a(): time.sleep(1); os._exit(7)
def b(): time.sleep(3); ctypes.string_at(0)
if __name__ == "__main__":
    ps = [mp.Process(target=f) for f in (a, b)]
    for p in ps: p.start()
    for p in ps: p.join()
    sys.exit(1)
""")
    assert r.report["root"] == 0, str(r)
    end = [line for line in r.err.splitlines() if line.startswith("nnguard: ")][-4:]
    assert any(line.startswith("nnguard: likely") for line in end), str(r)


def test_full_disk_after_a_tolerated_exit(guard, mounts):
    path = os.path.join(guard.base, "full.py")
    with open(path, "w", encoding="ascii") as f:
        f.write(HEAD + """
def a(): os._exit(7)
if __name__ == "__main__":
    p = mp.Process(target=a); p.start(); p.join(); time.sleep(2)
    open("/mnt/x", "wb").write(b"x" * (4 << 20))
""")
    r = guard.guarded([sys.executable, path], wrap=lambda cmd: [
        "unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=1m none /mnt; exec "$@"', "sh", *cmd])
    assert [i["cause"] for i in r.report["incidents"]] == ["worker_exit", "disk_full"], str(r)
    assert r.report["root"] == 1, str(r)
