# SPDX-License-Identifier: MIT
"""nnUNetv2_train with one thing broken: the third batch of a worker meets FAULTY.

    FAULTY=segv|exception|exit|eat python faulty.py 1 2d 0 -tr ...     (FAULTY_LIB: libcrash.so)

Everything else is the real program: only the method that makes a batch is wrapped.
"""
import ctypes
import os
import sys
import time

from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.dataloading import data_loader

TRAINER = os.getpid()
CALLS = [0]


def spoil(original):
    def generate_train_batch(self, *args, **kwargs):
        batch = original(self, *args, **kwargs)
        if os.getpid() != TRAINER:
            CALLS[0] += 1
            if CALLS[0] == 3:
                fate = os.environ["FAULTY"]
                if fate == "segv":
                    ctypes.CDLL(os.environ["FAULTY_LIB"]).crash_decode_block(64)
                elif fate == "exception":
                    raise ValueError("ball_003: the label has a value that is not in dataset.json")
                elif fate == "exit":
                    os._exit(11)
                elif fate == "eat":
                    kept = []
                    while True:
                        kept.append(b"x" * (16 << 20))
                        time.sleep(0.01)
        return batch
    return generate_train_batch


def main():
    loader = getattr(data_loader, "nnUNetDataLoader", None)
    if loader is None:
        sys.exit("this nnU-Net names its data loader otherwise")
    loader.generate_train_batch = spoil(loader.generate_train_batch)
    run_training_entry()


if __name__ == "__main__":
    main()
