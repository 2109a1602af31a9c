#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# fuzz.sh FOLDER SECONDS: run every fuzzer in FOLDER that long, each from its corpus in test/fuzz/corpus
# (new inputs go to a copy under FOLDER). A crash, a leak or a hang ends it with the input's path.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$1
seconds=$2
shopt -s nullglob
fuzzers=(test/fuzz/fuzz_*.c)
[ ${#fuzzers[@]} -gt 0 ] || { echo 'fuzz: no fuzzers'; exit 1; }
failed=0
for source in "${fuzzers[@]}"; do
    name=$(basename "$source" .c)
    corpus=test/fuzz/corpus/${name#fuzz_}
    found=$folder/found/$name
    mkdir -p "$found"
    args=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=1048576 -print_final_stats=0
        -verbosity=0 -artifact_prefix="$folder/$name-" "$found")
    [ ! -d "$corpus" ] || args+=("$corpus")
    if "$folder/$name" "${args[@]}" >"$folder/$name.log" 2>&1; then
        printf 'fuzz: %-28s ok, %d inputs found\n' "$name" "$(find "$found" -type f | wc -l)"
    else
        printf 'fuzz: %-28s FAILED\n' "$name"
        tail -n 30 "$folder/$name.log"
        failed=1
    fi
done
exit $failed
