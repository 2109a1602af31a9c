# SPDX-License-Identifier: MIT
"""A program that lays a seccomp filter over itself: calls that only we make must not end it, or hang."""
import platform

import pytest

from conftest import SYSTEM_PYTHON

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
GETPID, KILL, FSTATFS = 39, 62, 138
TRAP, REFUSE = 0x30000, 0x50001
FILTER = """
import ctypes, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
action, calls = int(sys.argv[1]), [int(n) for n in sys.argv[2].split(",")]
def ins(code, jt, jf, k):
    return struct.pack("HBBI", code, jt, jf, k)
text = ins(0x20, 0, 0, 0)
for n in calls:
    text += ins(0x15, 0, 1, n) + ins(6, 0, 0, action)
text += ins(6, 0, 0, 0x7fff0000)
keep = ctypes.create_string_buffer(text, len(text))
prog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(text) // 8, ctypes.addressof(keep)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, prog, 0, 0) == 0
"""
LIVES = FILTER + """
try:
    os.write(os.open("/dev/full", os.O_WRONLY), b"x")
except OSError as e:
    print(e.errno)
signal.signal(signal.SIGSEGV, signal.SIG_DFL)
print("end", flush=True)
sys.exit(3)
"""


@pytest.mark.parametrize("action", [TRAP, REFUSE], ids=["trap", "refuse"])
def test_our_calls_meet_the_filter(guard, action):
    """getpid and fstatfs are calls of our hooks and of our handler, not of this script."""
    result = guard.both([SYSTEM_PYTHON, "-c", LIVES, str(action), f"{GETPID},{FSTATFS},{KILL}"], timeout=15)
    assert (result.rc, result.out, result.err) == (3, "28\nend\n", ""), str(result)


@pytest.mark.parametrize("calls", [f"{GETPID}", f"{GETPID},{KILL},297"], ids=["getpid", "more"])
def test_the_programs_own_call_ends_it_as_before(guard, calls):
    """Killed by SIGSYS, although the handler cannot ask for its own pid."""
    result = guard.both([SYSTEM_PYTHON, "-c", FILTER + "os.getpid()\nprint('not reached')", str(TRAP), calls],
                        timeout=15)
    assert not result.timed_out and result.rc == -31 and "not reached" not in result.out, str(result)
