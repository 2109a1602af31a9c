#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Data for the real nnU-Net, made once under build/trainer: the synthetic data set, planned and
# preprocessed in 2d, with a network small enough to train an epoch on a CPU in seconds.
#
#   prepare_trainer.sh [VENV]    prints the folder; VENV defaults to build/venv-nnunet
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$(realpath "${1:-build/venv-nnunet}")
place=$PWD/build/trainer/$(basename "$venv")
mkdir -p "$place"/{raw,preprocessed,results}
export nnUNet_raw=$place/raw nnUNet_preprocessed=$place/preprocessed nnUNet_results=$place/results
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1

# One at a time: two tests that start together would preprocess into the same folder.
exec 9>"$place/.lock"
flock 9
if [ ! -e "$place/.ready" ]; then
    "$venv/bin/python" scripts/make_dataset.py "$place/raw" >&2
    "$venv/bin/nnUNetv2_plan_and_preprocess" -d 1 -c 2d -np 2 -npfp 2 >"$place/prepare.log" 2>&1 ||
        { tail -n 20 "$place/prepare.log" >&2; exit 1; }
    # The architecture of the plans, cut down to four small stages.
    "$venv/bin/python" - "$place/preprocessed/Dataset001_Balls/nnUNetPlans.json" <<'END'
import json
import sys

with open(sys.argv[1], encoding="utf-8") as f:
    plans = json.load(f)
configuration = plans["configurations"]["2d"]
configuration["batch_size"] = 2
kwargs = configuration["architecture"]["arch_kwargs"]
stages = 4
kwargs["n_stages"] = stages
kwargs["features_per_stage"] = [8, 16, 16, 16]
for name in ("kernel_sizes", "strides", "n_conv_per_stage"):
    kwargs[name] = kwargs[name][:stages]
kwargs["n_conv_per_stage_decoder"] = kwargs["n_conv_per_stage_decoder"][:stages - 1]
with open(sys.argv[1], "w", encoding="utf-8") as f:
    json.dump(plans, f, indent=1)
# The same with batches of more than 2 MiB, for a /dev/shm that is too small for them.
configuration["batch_size"] = 320
plans["plans_name"] = "nnUNetPlansBig"
with open(sys.argv[1].replace(".json", "Big.json"), "w", encoding="utf-8") as f:
    json.dump(plans, f, indent=1)
END
    : >"$place/.ready"
fi
echo "$place"
