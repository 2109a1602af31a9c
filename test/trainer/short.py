# SPDX-License-Identifier: MIT
"""nnUNetv2_train with epochs of SHORT iterations (default 8) instead of 250, for batches that are large:
    python short.py 1 2d 0 -tr nnUNetTrainer_1epoch ...
Everything else is the real program."""
import os

from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main():
    original = nnUNetTrainer.on_train_start

    def on_train_start(self):
        self.num_iterations_per_epoch = int(os.environ.get("SHORT", "8"))
        self.num_val_iterations_per_epoch = 2
        original(self)
    nnUNetTrainer.on_train_start = on_train_start
    run_training_entry()


if __name__ == "__main__":
    main()
