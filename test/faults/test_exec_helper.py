# SPDX-License-Identifier: MIT
"""A child that is forked and then execs a program that is not Python is a helper, however soon it is over
and whatever it leaves with; so is one whose exec fails. Nothing is said of either."""
import sys

import pytest

from conftest import assert_silent

HELPERS = {
    "setsid": "subprocess.run(['sh', '-c', 'exit 4'], preexec_fn=os.setsid)",
    "setsid_slow": "subprocess.run(['sh', '-c', 'sleep 0.3; exit 4'], preexec_fn=os.setsid)",
    "spawnvp": "os.spawnvp(os.P_WAIT, 'false', ['false'])",
    "pty": "pty.spawn(['sh', '-c', 'exit 3'])",
    "fork_exec": "os.fork() or os.execv('/bin/false', ['false'])\nos.wait()",
    "fork_exec_signal": "os.fork() or os.execvp('sh', ['sh', '-c', 'kill -SEGV $$'])\nos.wait()",
    "fork_exec_python": "os.fork() or os.execv(sys.executable, [sys.executable, '-c', '1/0'])\nos.wait()",
    "missing": "try: subprocess.run(['nonesuch'], preexec_fn=os.setsid)\nexcept OSError: pass",
    "no_folder": "try: subprocess.run(['true'], cwd='/nonesuch', preexec_fn=os.setsid)\nexcept OSError: pass",
    "preexec_raises": "try: subprocess.run(['true'], preexec_fn=lambda: 1 / 0)\n"
                      "except subprocess.SubprocessError: pass",
    "missing_127": "if not os.fork():\n  try: os.execvp('nonesuch', ['x'])\n  except OSError: os._exit(127)\n"
                   "os.wait()",
}


@pytest.mark.parametrize("name", sorted(HELPERS))
def test_failing_helper_is_no_worker(guard, name):
    text = "import os, pty, subprocess, sys\n" + HELPERS[name]
    for _ in range(4):
        assert_silent(guard.both([sys.executable, "-c", text]))
