# SPDX-License-Identifier: MIT
"""batchgenerators' NonDetMultiThreadedAugmenter with tensors through an old torch's shared memory.

    old_torch.py WORKERS MIB      batches of MIB megabytes each, for ever, until a worker dies
"""
import sys

import numpy as np
import torch
from batchgenerators.dataloading.data_loader import DataLoader
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter


class Batches(DataLoader):
    def generate_train_batch(self):
        return {"data": np.ones((2, 1, int(sys.argv[2]) * 128 * 1024), dtype=np.float32)}


def to_torch(**batch):
    return {"data": torch.from_numpy(batch["data"])}


def main():
    torch.set_num_threads(1)
    workers = int(sys.argv[1])
    loader = Batches(None, 2, workers, infinite=True)
    augmenter = NonDetMultiThreadedAugmenter(loader, to_torch, workers, 4)
    kept = []
    for n in range(40):
        kept.append(next(augmenter))  # a trainer that is slower than its workers
        print("batch", n, flush=True)


if __name__ == "__main__":
    main()
