# SPDX-License-Identifier: MIT
"""NNGUARD_ON_STALL=end ends what stands still, and nothing else."""
import os

import pytest

SCRIPT = """
import multiprocessing as mp, os, subprocess, sys, time
def leave(): os._exit(7)
if __name__ == "__main__":
    p = mp.get_context("fork").Process(target=leave); p.start(); p.join()
    if sys.argv[1] == "tool":
        subprocess.run(["timeout", "8", "sh", "-c", "while :; do :; done"])
    else:
        time.sleep(60)
    print("all well")
"""


@pytest.mark.parametrize("what", ["tool", "nothing"])
def test_a_tool_that_works_is_progress(guard, base, what):
    """After a death that it tolerates the trainer waits: for a tool that computes, or for nothing."""
    name = os.path.join(base, "stall.py")
    with open(name, "w", encoding="ascii") as f:
        f.write(SCRIPT)
    r = guard.guarded(["python3", name, what], timeout=50,
                      env={"NNGUARD_ON_STALL": "end", "NNGUARD_STALL_S": "4"})
    assert (r.rc == 0 and "all well" in r.out) == (what == "tool"), str(r)
    assert not r.timed_out, str(r)
