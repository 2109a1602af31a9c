# SPDX-License-Identifier: MIT
"""nnUNetv2_train whose batches and predictions carry a checksum from the process that made them to the one
that uses them:
    python checked.py 1 2d 0 -tr nnUNetTrainer_1epoch ...
The first that arrives changed ends the training with an exception; at the end one line says how many were
compared. Everything else is the real program."""
import os
import zlib

import numpy as np
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

KEY = "checksum"
compared = {"batches": 0, "predictions": 0}


def checksum(value):
    if isinstance(value, (list, tuple)):
        return zlib.crc32(repr([checksum(v) for v in value]).encode())
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return zlib.crc32(np.ascontiguousarray(value).tobytes())
    return zlib.crc32(repr(value).encode())


def verify(what, expected, value):
    if checksum(value) != expected:
        raise ValueError(f"a changed one of the {what}, process {os.getpid()}")
    compared[what] += 1


def checked_batch(original):
    def generate_train_batch(self):
        batch = original(self)
        batch[KEY] = checksum([batch["data"], batch["target"]])
        return batch
    return generate_train_batch


def checked_step(original):
    def step(self, batch):
        verify("batches", batch.pop(KEY), [batch["data"], batch["target"]])
        return original(self, batch)
    return step


def checked_export(sum_and_prediction, *rest):
    """In a worker of the validation's pool."""
    verify("predictions", *sum_and_prediction)
    return export_prediction_from_logits(sum_and_prediction[1], *rest)


class Exporting:
    """The pool of the validation, with a checksum beside each prediction that is handed to it."""

    def __init__(self, pool):
        self._pool_itself = pool

    def __getattr__(self, name):
        return getattr(self._pool_itself, name)

    def __enter__(self):
        self._pool_itself.__enter__()
        return self

    def __exit__(self, *reason):
        return self._pool_itself.__exit__(*reason)

    def starmap_async(self, function, calls):
        if function is not export_prediction_from_logits:
            return self._pool_itself.starmap_async(function, calls)
        calls = [((checksum(call[0]), call[0]), *call[1:]) for call in calls]
        compared["predictions"] += len(calls)
        return self._pool_itself.starmap_async(checked_export, calls)


class Context:
    def __init__(self, context):
        self._context = context

    def __getattr__(self, name):
        return getattr(self._context, name)

    def Pool(self, *args, **kwargs):  # pylint: disable=invalid-name
        return Exporting(self._context.Pool(*args, **kwargs))


class Multiprocessing:
    """The module as nnU-Net's trainer sees it."""

    def __init__(self, original):
        self._original = original

    def __getattr__(self, name):
        return getattr(self._original, name)

    def get_context(self, *args):
        return Context(self._original.get_context(*args))


def main():
    trainer = module.nnUNetTrainer
    nnUNetDataLoader.generate_train_batch = checked_batch(nnUNetDataLoader.generate_train_batch)
    trainer.train_step = checked_step(trainer.train_step)
    trainer.validation_step = checked_step(trainer.validation_step)
    module.multiprocessing = Multiprocessing(module.multiprocessing)
    run_training_entry()
    print(f"compared: {compared['batches']} batches, {compared['predictions']} predictions", flush=True)


if __name__ == "__main__":
    main()
