# SPDX-License-Identifier: MIT
"""What the benchmark lets die: victim.py HOW [torch]. Prints, on stdout, the monotonic nanoseconds of
the death and of the moment when the parent's wait returned."""
import ctypes
import multiprocessing
import os
import signal
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
    worker = context.Process(target=die, args=(how, theirs))
    worker.start()
    time.sleep(0.2)
    ours.send("now")
    if how == "kill":
        dead = time.monotonic_ns()
        # As a person or the kernel would: not through any function of multiprocessing.
        os.system(f"kill -9 {worker.pid}")
    else:
        dead = ours.recv()
    os.waitpid(worker.pid, 0)
    print(dead, time.monotonic_ns(), flush=True)
    time.sleep(0.3)
    os._exit(0)


if __name__ == "__main__":
    main()
