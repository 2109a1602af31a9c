# SPDX-License-Identifier: MIT
"""What the benchmark lets die: victim.py HOW [torch]. Prints, on stdout, the monotonic nanoseconds of
the death and of the moment when the parent's wait returned."""
import ctypes
import multiprocessing
import os
import subprocess
import sys
import time


def die(how, conn):
    conn.recv()
    if how == "segv":
        conn.send(time.monotonic_ns())
        ctypes.string_at(0)
    time.sleep(60)


def main():
    how = sys.argv[1]
    if "torch" in sys.argv:
        import torch  # noqa: F401 (what matters is its libraries)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    # As a person or the kernel would: not through any function of multiprocessing. Started before, so
    # that its start is not in the time.
    killer = subprocess.Popen(["sh", "-c", "read pid; kill -9 $pid"], stdin=subprocess.PIPE)
    worker = context.Process(target=die, args=(how, theirs))
    worker.start()
    time.sleep(0.2)
    ours.send("now")
    if how == "kill":
        dead = time.monotonic_ns()
        os.write(killer.stdin.fileno(), b"%d\n" % worker.pid)
    else:
        dead = ours.recv()
    os.waitpid(worker.pid, 0)
    reaped = time.monotonic_ns()
    killer.stdin.close()
    killer.wait()
    print(dead, reaped, flush=True)
    time.sleep(0.3)
    os._exit(0)


if __name__ == "__main__":
    main()
