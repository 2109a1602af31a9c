# SPDX-License-Identifier: MIT
"""The program's own handlers of fatal signals, and faults that must stay fatal."""
import os
import sys

import pytest

from conftest import program


@pytest.mark.parametrize("thread,kib", [(0, 100), (0, 1000), (1, 20), (1, 100)])
def test_a_handler_that_needs_room(guard, thread, kib):
    """Set without SA_ONSTACK it would have the thread's whole stack; so ours must not be too small for it."""
    lib = program("deep_handler.c", "-shared", "-fPIC", "-pthread", target="deep_handler.so")
    r = guard.both([sys.executable, "-c", f"import ctypes; ctypes.CDLL({lib!r}).go({kib}, {thread})"])
    assert r.rc == 7 and "handler ok" in r.out, str(r)


@pytest.mark.parametrize("us", [300, 1000, 3000])
def test_a_fault_stays_fatal_though_another_thread_maps_the_place(guard, us):
    """We hold the process for its stack: time enough for an allocator to map that address again."""
    path = program("mapped_late.c", "-pthread", target="python-mapped-late")
    r = guard.guarded([path, str(us)], env={"NNGUARD_MATCH": os.path.basename(path)})
    assert r.rc == -11 and "survived" not in r.out, str(r)


def test_a_sandbox_that_traps_what_we_call(guard):
    """A seccomp filter that traps getpid: it must end, and not for ever ask for its pid."""
    script = """
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
prog = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, 39) + \\
       struct.pack("HBBI", 0x06, 0, 0, 0x00030000) + struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)
buf = ctypes.create_string_buffer(prog, len(prog))
class Fprog(ctypes.Structure): _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
f = Fprog(4, ctypes.addressof(buf))
libc.prctl(38, 1, 0, 0, 0)
if libc.prctl(22, 2, ctypes.byref(f), 0, 0): sys.exit(77)
import signal
signal.signal(signal.SIGSEGV, signal.SIG_DFL)
sys.exit(3)
"""
    r = guard.guarded([sys.executable, "-c", script], timeout=20)
    if r.rc == 77 or os.uname().machine != "x86_64":
        pytest.skip("no seccomp filter can be set here")
    assert not r.timed_out and r.rc in (3, -31), str(r)
