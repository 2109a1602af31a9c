# SPDX-License-Identifier: MIT
"""The part of the bench about NNGUARD_RESCUE: ordinary against rescued segments."""
import os
import shutil
import statistics
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))


def throughput(bench, program, size, count, shm, env):
    command = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={shm} tmpfs /dev/shm && exec "$@"',
               "sh", "env", *[f"{name}={value}" for name, value in env.items()], program, str(size),
               str(count)]
    done = subprocess.run(command, env=bench.env(False), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=120, check=True)
    return float(done.stdout)


def rescue(bench):
    """segments: MiB/s made, filled and let go; with room, and rescued without"""
    if not shutil.which("unshare"):
        raise RuntimeError("unshare is not installed")
    program = os.path.join(bench.base, "segments")
    subprocess.run(["gcc", "-O2", os.path.join(HERE, "segments.c"), "-o", program, "-lrt"], check=True)
    guarded = {"LD_PRELOAD": bench.library, "NNGUARD_DIR": os.path.join(bench.base, "guard"),
               "NNGUARD_MATCH": "segments", "NNGUARD_RESCUE": "shm", "NNGUARD_QUIET": "1"}
    for size, count in ((1 << 20, 400), (16 << 20, 60)):
        kinds = {"bare": ("2g", {}), "room": ("2g", guarded), "rescued": ("512k", guarded)}
        got = {kind: [] for kind in kinds}
        for _ in range(bench.times(9, 3)):
            for kind, (shm, env) in kinds.items():
                got[kind].append(throughput(bench, program, size, count, shm, env))
        bare = statistics.median(got["bare"])
        for kind, what in (("room", "with room, rescue on"), ("rescued", "rescued")):
            ratio = statistics.median(g / b for g, b in zip(got[kind], got["bare"]))
            bench.row(f"segments of {size >> 20} MiB, {what}", f"{ratio * 100:.0f} %",
                      f"{bare:.0f} MiB/s", ">= 90 %" if kind == "room" else ">= 75 %",
                      ratio >= (0.9 if kind == "room" else 0.75))
