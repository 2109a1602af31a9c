# SPDX-License-Identifier: MIT
"""The terminal's own signals: Ctrl-\\ is a person's will like Ctrl-C, and a closed terminal is named."""
import os
import pty
import select
import sys
import time

import pytest

from conftest import clean_env, LIB, leftovers, wait_until

POOL = """
import multiprocessing as mp, sys, time
def w(i): time.sleep(30)
if __name__ == "__main__":
    p = mp.get_context(sys.argv[1]).Pool(2)
    r = p.map_async(w, range(2)); time.sleep(0.5); print("go", flush=True)
    try: r.get()
    finally: p.terminate()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_quit_from_the_terminal_is_silent(guard, method):
    path, runs, out = os.path.join(guard.base, "pool.py"), guard.new_dir(), b""
    with open(path, "w", encoding="ascii") as f:
        f.write(POOL)
    pid, fd = pty.fork()
    if pid == 0:
        env = clean_env({"LD_PRELOAD": LIB, "NNGUARD_DIR": runs, "NNGUARD_LANG": "en"})
        os.execve(sys.executable, [sys.executable, path, method], env)
    end = time.monotonic() + 20
    sent = False
    while time.monotonic() < end:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                out += os.read(fd, 65536)
            except OSError:
                break
        if b"go" in out and not sent:
            time.sleep(0.3)
            os.write(fd, b"\x1c")
            sent = True
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 3
    os.close(fd)
    assert wait_until(lambda: not leftovers(runs), 3)
    assert b"nnguard" not in out, out.decode()
    assert not os.path.isdir(runs) or os.listdir(runs) == [], out.decode()
