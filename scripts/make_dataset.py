#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Make a small synthetic data set in nnU-Net's raw format: cubes of noise with a bright ball each.

    make_dataset.py [--cases N] [--size N] [--id N] FOLDER

FOLDER is what nnUNet_raw names. Prints the data set's folder. Needs numpy and nibabel or SimpleITK.
"""
import argparse
import json
import os
import sys

import numpy as np


def write_nifti(path, volume):
    try:
        import nibabel
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    except ImportError:
        import SimpleITK
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), path)


def make_case(rng, size):
    """A volume and its label: one ball whose place and radius differ from case to case."""
    grid = np.indices((size, size, size))
    centre = rng.uniform(size * 0.35, size * 0.65, 3).reshape(3, 1, 1, 1)
    radius = rng.uniform(size * 0.15, size * 0.25)
    ball = ((grid - centre) ** 2).sum(0) < radius ** 2
    volume = rng.normal(0, 1, ball.shape) + 4 * ball
    return volume.astype(np.float32), ball.astype(np.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--size", type=int, default=40)
    parser.add_argument("--id", type=int, default=1)
    parser.add_argument("folder")
    args = parser.parse_args()
    place = os.path.join(args.folder, f"Dataset{args.id:03d}_Balls")
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        os.makedirs(os.path.join(place, name), exist_ok=True)
    rng = np.random.default_rng(20240229)
    for n in range(args.cases):
        volume, label = make_case(rng, args.size)
        write_nifti(os.path.join(place, "imagesTr", f"ball_{n:03d}_0000.nii.gz"), volume)
        write_nifti(os.path.join(place, "labelsTr", f"ball_{n:03d}.nii.gz"), label)
    volume, _ = make_case(rng, args.size)
    write_nifti(os.path.join(place, "imagesTs", "ball_100_0000.nii.gz"), volume)
    # Written last: a folder without it is one that was not finished.
    with open(os.path.join(place, "dataset.json"), "w", encoding="utf-8") as f:
        json.dump({"channel_names": {"0": "CT"}, "labels": {"background": 0, "ball": 1},
                   "numTraining": args.cases, "file_ending": ".nii.gz"}, f, indent=1)
    print(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
