# SPDX-License-Identifier: MIT
"""Lines that people copy and numbers that they compare: right in odd surroundings, too."""
import os
import shlex

from conftest import incident_of, screen

ASKS = """
import multiprocessing as mp, os, sys
def work(path):
    with open(path, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, 64 << 20)
if __name__ == "__main__":
    p = mp.get_context("fork").Process(target=work, args=(sys.argv[1],))
    p.start(); p.join(); sys.exit(p.exitcode)
"""


def test_too_much_at_once_for_a_disk_with_room(guard, base, mounts):
    """8 MiB are free: "full" would send people looking for what is not there. The command that is offered is
    one that a shell takes as it is meant, whatever the folder is called."""
    script, place = os.path.join(base, "asks.py"), os.path.join(base, "it's $(id) here")
    with open(script, "w", encoding="ascii") as f:
        f.write(ASKS)
    os.mkdir(place)
    r = guard.both(["python3", script, os.path.join(place, "cache.npy")],
                   wrap=lambda cmd: ["unshare", "-m", "sh", "-c",
                                     f'mount -t tmpfs -o size=8m tmpfs {shlex.quote(place)} && exec "$@"', "sh",
                                     *cmd])
    i = incident_of(r, "disk_full", code=1, role="worker")
    assert "too little room" in r.lines[0] and "64.0 MiB" in screen(r), str(r)
    commands = [f["command"] for f in i["fixes"] if f["command"] and f["command"].startswith("df ")]
    assert commands and shlex.split(commands[0])[2].rstrip(";") == place, commands
