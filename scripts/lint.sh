#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# make lint: every check runs, also after one has failed; the end names those that did.
#   lint.sh DIR    build folder of its own, so that flags never mix with those of `make`
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
dir=${1:-build/lint}
jobs=$(nproc)
failed=()
mkdir -p "$dir"

step() {
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$dir/$name.log" 2>&1; then
        printf 'lint: %-14s ok   %3d s\n' "$name" $((SECONDS - start))
    else
        printf 'lint: %-14s FAILED\n' "$name"
        # The compilers' own words, without the commands that led to them.
        grep -vE '^(gcc|clang|mkdir|make)\b' "$dir/$name.log" | head -n 80
        failed+=("$name")
    fi
}

# What git tracks or would track: a file that was not added yet is checked too.
files() { git ls-files --cached --others --exclude-standard "$@" | sort -u | xargs -r ls -d 2>/dev/null; }
mapfile -t c_files < <(files '*.c')
mapfile -t all_c < <(files '*.c' '*.h')
mapfile -t program_c < <(files 'shim/*.c' 'probes/*.c')
mapfile -t shell_files < <(files '*.sh' .ci/run; git grep -lE '^#!.*\b(ba)?sh$' -- test scripts)
mapfile -t text_files < <(files '*.md' '*.c' '*.h' '*.py' '*.sh' Makefile | grep -vE '\.zh\.md$')

# The linkers' section tables (nng_hooks, nng_causes) and clang's -Wextra differ from gcc's: both build.
build_gcc() {
    make -j"$jobs" BUILD="$dir/gcc" CC=gcc WERROR=-Werror STACK=1 all unit-programs
}
build_clang() { make -j"$jobs" BUILD="$dir/clang" CC=clang WERROR=-Werror all unit-programs; }
victims() { make -j"$jobs" BUILD="$dir/gcc" victims; }

tidy() {
    printf '%s\n' "${program_c[@]}" | xargs -P "$jobs" -n 4 sh -c \
        'clang-tidy --quiet "$@" -- -std=gnu17 -D_GNU_SOURCE -DNNG_LINT \
         -DNNG_VERSION_STRING=\"0\" 2>/dev/null' sh
}
cpp() {
    cppcheck -j "$jobs" --std=c11 --quiet --error-exitcode=1 --inline-suppr \
        --enable=warning,portability,performance --suppress=missingIncludeSystem \
        --suppressions-list=scripts/cppcheck.suppress \
        -D_GNU_SOURCE -D__x86_64__ -DNNG_VERSION_STRING='"0"' "${program_c[@]}"
}
format() { clang-format --dry-run -Werror "${all_c[@]}"; }
spell() { codespell --ignore-words=scripts/codespell.ignore "${text_files[@]}"; }

step gcc build_gcc
step clang build_clang
step victims victims
step clang-tidy tidy
step cppcheck cpp
step shellcheck shellcheck "${shell_files[@]}"
step clang-format format
if command -v codespell >/dev/null; then step codespell spell; fi
step python python3 -m compileall -q -f test scripts
find test scripts -name __pycache__ -prune -exec rm -rf {} +
step own-rules python3 scripts/check.py "$dir/gcc"

if [ ${#failed[@]} -gt 0 ]; then
    printf 'lint: FAILED: %s (logs in %s)\n' "${failed[*]}" "$dir"
    exit 1
fi
printf 'lint: all well (%d C files)\n' "${#c_files[@]}"
