# SPDX-License-Identifier: MIT
"""A kernel before 6.15 does not tell the status of a process that is gone: PIDFD_GET_INFO is answered with
ENOTTY here, by seccomp. What a trainer's end was is then inferred or unknown, never made up."""
import os
import sys

import pytest

from conftest import LIB

OLD = r"""
import ctypes, os, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
prog = [(0x20, 0, 0, 0), (0x15, 0, 3, 16), (0x20, 0, 0, 24), (0x15, 0, 1, 0xC040FF0B), (0x06, 0, 0, 0x50019),
        (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *p) for p in prog))
class F(ctypes.Structure): _fields_ = [("len", ctypes.c_ushort), ("f", ctypes.c_void_p)]
f = F(len(prog), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(f), 0, 0) == 0
p = subprocess.Popen(sys.argv[2:], env=dict(os.environ, LD_PRELOAD=sys.argv[1]))
print("status", p.wait(), flush=True)
time.sleep(0.6)
"""

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86_64")


def old_kernel(guard, *cmd):
    return guard.bare([sys.executable, "-c", OLD, LIB, *cmd],
                      env={"NNGUARD_DIR": guard.new_dir(), "NNGUARD_LANG": "en"})


@pytest.mark.parametrize("code", [
    "os.execv('/bin/sleep', ['sleep', '0.3'])",
    "os.execve('/bin/sleep', ['sleep', '0.3'], {'PATH': '/bin'})",
    "os.execvp('sh', ['sh', '-c', 'sleep 0.2; exit 0'])"])
def test_launcher_that_became_another_program(guard, code):
    r = old_kernel(guard, sys.executable, "-c", "import os; " + code)
    assert "status 0" in r.out, str(r)
    assert "nnguard:" not in r.err, str(r)


@pytest.mark.parametrize("name", ["SIGALRM", "SIGUSR1"])
def test_signal_that_leaves_no_record(guard, name):
    r = old_kernel(guard, sys.executable, "-c", f"""
import signal, subprocess, os, time
subprocess.Popen(["/bin/sh", "-c", "sleep 0.5; kill -%d %d" % (signal.{name}, os.getpid())])
time.sleep(9)""")
    said = [line for line in r.err.splitlines() if line.startswith("nnguard: ")]
    assert not any(line.startswith("nnguard: certain") for line in said), str(r)
    assert not said or "without a record" in said[0] or name in said[0], str(r)
