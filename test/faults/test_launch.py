# SPDX-License-Identifier: MIT
"""Where the monitor is started: what of it a program could meet in odd surroundings."""
import pytest

from conftest import IS_ROOT, SYSTEM_PYTHON, with_limits

CHILDREN = """
import os, subprocess
for i in range(2):
    try:
        print(subprocess.check_output(["sh", "-c", "echo $$"]).decode().strip())
    except OSError as e:
        print(e.errno)
"""


@pytest.mark.skipif(not IS_ROOT, reason="unshare --pid needs root")
def test_first_child_of_a_new_pid_namespace_is_the_programs(guard):
    """`unshare --pid` without --fork: it is PID 1 there, and after it no fork succeeds any more."""
    result = guard.both([SYSTEM_PYTHON, "-c", CHILDREN], wrap=lambda cmd: ["unshare", "--pid", *cmd])
    assert (result.out, result.err) == (result.bare.out, result.bare.err) == ("1\n12\n", ""), str(result)
    assert not result.runs, str(result)


@pytest.mark.parametrize("room", [5, 10])
def test_little_room_for_descriptors(guard, room):
    """The monitor starts all the same, so that a plain bad exit leaves nothing behind."""
    script = "import os, sys; sys.stdout.flush(); os._exit(3)"
    result = guard.both([SYSTEM_PYTHON, "-c", script],
                        wrap=lambda cmd: with_limits(f"-S -n {room}", cmd))
    assert (result.rc, result.err) == (3, ""), str(result)
    assert not result.runs, str(result)


WALL = """
import os
WALL = 0x40000000
for options in (0, os.WNOHANG, os.WEXITED):
    if os.fork() == 0:
        os._exit(5)
    os.wait() if options == os.WNOHANG else None
    try:
        print(os.waitpid(-1, WALL | options)[1] if options != os.WEXITED else
              os.waitid(os.P_ALL, 0, WALL | os.WEXITED).si_status)
        print(os.waitpid(-1, WALL | os.WNOHANG))
    except ChildProcessError:
        print("no child")
try:
    print(os.waitpid(-1, WALL))
except ChildProcessError:
    print("no child")
"""


@pytest.mark.skipif(not IS_ROOT, reason="unshare --pid needs root")
def test_first_process_has_no_child_but_its_own(guard):
    """As PID 1 we keep a process beside it, which no wait may count as one of its children."""
    result = guard.both([SYSTEM_PYTHON, "-c", WALL], timeout=15,
                        wrap=lambda cmd: ["unshare", "--pid", "--fork", "--mount-proc", *cmd])
    assert not result.timed_out and result.out == result.bare.out, str(result)
    assert result.out.count("no child") == 4, str(result)
