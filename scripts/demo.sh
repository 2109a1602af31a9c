#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# make demo: three real deaths of the real nnU-Net, each first as everybody meets them, then with
# nnguard. Nothing is staged but the cause: a /dev/shm of 2 MiB, a memory limit, a broken library
# (test/trainer/faulty.py is nnUNetv2_train with the third batch of a worker spoilt).
#
#   BUILD=build scripts/demo.sh [shm] [oom] [segv]     (default: all three)
#
# Needs what `make demo` has installed before (scripts/setup.sh trainer). The first two cases need a
# right that an ordinary user may not have (a mount of one's own, a memory cgroup); a case that
# cannot be shown here is named, and the others are shown.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
build=$(realpath "${BUILD:-build}")
venv=$(realpath "${NNG_TRAINER_VENV:-build/venv-nnunet}")
library=$build/libnnguard.so
plain_s=${DEMO_PLAIN_S:-40}    # a run that would never end is ended after so long
guarded_s=${DEMO_GUARDED_S:-60}
rescued_s=${DEMO_RESCUED_S:-240}
enough_s=5
show_lines=${DEMO_LINES:-12}
work=$(mktemp -d)
group=''
skipped=()

bold='' dim='' off=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$(printf '\033[1m') dim=$(printf '\033[2m') off=$(printf '\033[0m')
fi

# shellcheck disable=SC2317  # called by the trap
cleanup() {
    [ -n "$group" ] && leave_group
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

heading() { printf '\n%s== %s ==%s\n' "$bold" "$*" "$off"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$off"; }

# ---- running something for a bounded time --------------------------------------------------------
# bounded SECONDS ENOUGH LOG COMMAND...: runs it in a session of its own and ends it after SECONDS,
# or some seconds after the pattern ENOUGH was seen in the log (a run that stands still for ever has
# nothing more to show). What came before we ended it stays in LOG. Sets status ("" where we ended
# it) and took.
bounded() {
    local limit=$1 enough=$2 log=$3 pid start seen=
    shift 3
    start=$SECONDS
    : >"$log"
    setsid "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    status=
    while kill -0 "$pid" 2>/dev/null; do
        if [ -z "$seen" ] && [ -n "$enough" ] && grep -q -- "$enough" "$log"; then
            seen=$((SECONDS + enough_s))
        fi
        if [ $((SECONDS - start)) -ge "$limit" ] || { [ -n "$seen" ] && [ "$SECONDS" -ge "$seen" ]; }; then
            # What the ending itself causes is no part of the story.
            cp "$log" "$log.before"
            end_session "$pid"
            mv "$log.before" "$log"
            wait "$pid" 2>/dev/null
            took=$((SECONDS - start))
            return
        fi
        sleep 0.2
    done
    wait "$pid" 2>/dev/null
    status=$?
    took=$((SECONDS - start))
    sleep 0.3
    end_session "$pid" quietly
}

# As a person does it: Ctrl-C, and what does not listen is killed. setsid made the pid the leader.
end_session() {
    local leader=$1
    if [ -z "${2:-}" ]; then
        kill -INT -- "-$leader" 2>/dev/null
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            kill -0 "$leader" 2>/dev/null || break
            sleep 0.3
        done
    fi
    kill -KILL -- "-$leader" 2>/dev/null
}

# The last lines of a log, long ones cut, a storm of equal tracebacks kept short.
show() {
    local log=$1 total
    total=$(wc -l <"$log")
    [ "$total" -gt "$show_lines" ] && note "[... $((total - show_lines)) lines before]"
    tail -n "$show_lines" "$log" | cut -c1-150
}

# What nnguard said, and the line of the program before and after it.
show_guarded() {
    grep -a -n '^nnguard: ' "$1" >"$work/said" || { show "$1"; note "nnguard said nothing"; return; }
    show "$1" | grep -a -v -e '^nnguard: ' -e '^Extension modules:' -e '^$' | tail -n 3
    grep -a '^nnguard: ' "$1" | cut -c1-160
}

ending() {
    if [ -n "$status" ]; then
        note "(exit status $status after $took s)"
    else
        note "(still running after $took s, ended by this demo)"
    fi
}

both() { # both TITLE ENOUGH PREFIX... -- COMMAND...
    local title=$1 enough=$2 prefix=()
    shift 2
    while [ "$1" != -- ]; do prefix+=("$1"); shift; done
    shift
    heading "$title"
    note "\$ $(shown "$@")"
    bounded "$plain_s" "$enough" "$work/plain" "${prefix[@]}" "$@" 2>/dev/null
    show "$work/plain"
    ending
    printf '\n'
    note "\$ LD_PRELOAD=$build_shown/libnnguard.so $(shown "$@")"
    bounded "$guarded_s" '^nnguard: ' "$work/guarded" "${prefix[@]}" \
        env "LD_PRELOAD=$library" "NNGUARD_DIR=$build/demo" "$@" 2>/dev/null
    show_guarded "$work/guarded"
    ending
    if ! grep -aq '^nnguard: ' "$work/guarded"; then
        failed=1
    fi
}

# The command as a person would type it.
shown() {
    local word out=
    for word; do
        case $word in
            "$venv"/bin/python) continue ;;
            "$venv"/bin/*) word=${word##*/} ;;
            "$PWD"/*) word=${word#"$PWD"/} ;;
        esac
        out+="$word "
    done
    printf '%s' "${out% }"
}

# ---- the rights that two of the cases need ---------------------------------------------------------
can_mount() {
    unshare -m sh -c 'mount -t tmpfs -o size=2m tmpfs /dev/shm' 2>/dev/null
}

# A memory cgroup of our own, v1 or v2; sets group and limit_file.
make_group() {
    local path parent
    path=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
    if [ -n "$path" ] && [ -d /sys/fs/cgroup/memory ]; then
        parent=/sys/fs/cgroup/memory$path
        [ -d "$parent" ] || parent=/sys/fs/cgroup/memory
        limit_file=memory.limit_in_bytes
    elif grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; then
        parent=/sys/fs/cgroup
        limit_file=memory.max
    else
        return 1
    fi
    mkdir "$parent/nnguard-demo.$$" 2>/dev/null || return 1
    group=$parent/nnguard-demo.$$
    echo "$1" 2>/dev/null >"$group/$limit_file" && return 0
    leave_group
    return 1
}

leave_group() {
    local pid
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        while read -r pid; do kill -KILL "$pid" 2>/dev/null; done <"$group/cgroup.procs"
        rmdir "$group" 2>/dev/null && break
        sleep 0.2
    done
    group=
}

# ---- the cases -------------------------------------------------------------------------------------
train=("$venv/bin/python" "$venv/bin/nnUNetv2_train" 1 2d 0 -tr nnUNetTrainer_1epoch -device cpu)

case_shm() {
    if ! can_mount; then
        skipped+=("shared memory (no right to mount a small /dev/shm: run it as root)")
        return
    fi
    # shellcheck disable=SC2016  # $@ is for the inner shell
    both "1. /dev/shm of 2 MiB, a current torch: nobody dies, the trainer waits for ever" '' \
        unshare -m sh -c 'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"' sh \
        -- "${train[@]}" -p nnUNetPlansBig
    rescued
}

# The same once more with the switch that the report named. Batches of that size take a CPU minutes,
# so the epoch has 8 of them; it ends as it would with a large /dev/shm.
rescued() {
    local short=("$venv/bin/python" "$PWD/test/trainer/short.py" "${train[@]:2}" -p nnUNetPlansBig)
    printf '\n'
    note "\$ NNGUARD_RESCUE=shm LD_PRELOAD=$build_shown/libnnguard.so $(shown "${short[@]}")"
    # shellcheck disable=SC2016  # $@ is for the inner shell
    bounded "$rescued_s" '' "$work/rescued" \
        unshare -m sh -c 'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"' sh \
        env "LD_PRELOAD=$library" "NNGUARD_DIR=$build/demo" NNGUARD_RESCUE=shm nnUNet_def_n_proc=1 \
        SHORT=8 "${short[@]}" 2>/dev/null
    grep -a -e 'Epoch 0' -e 'train_loss' -e 'Training done' -e 'Validation complete' "$work/rescued"
    grep -a '^nnguard: ' "$work/rescued" | cut -c1-160
    ending
    if [ "$status" != 0 ]; then
        failed=1
    fi
}

case_oom() {
    if ! make_group $((1536 << 20)); then
        skipped+=("memory limit (no right to make a memory cgroup: run it as root)")
        return
    fi
    # shellcheck disable=SC2016
    both "2. A memory limit of 1.5 GiB and a worker that takes more and more: the kernel kills it" '' \
        env FAULTY=eat sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" \
        -- "$venv/bin/python" "$PWD/test/trainer/faulty.py" "${train[@]:2}"
    leave_group
}

case_segv() {
    if ! gcc -O1 -g -fPIC -shared -fno-omit-frame-pointer -pthread test/faults/native/crash.c \
        -o "$work/libcrash.so" 2>"$work/gcc.log"; then
        skipped+=("segfault (gcc failed)")
        return
    fi
    both "3. A worker calls into a library that is broken" '' \
        env FAULTY=segv "FAULTY_LIB=$work/libcrash.so" \
        -- "$venv/bin/python" "$PWD/test/trainer/faulty.py" "${train[@]:2}"
}

main() {
    local name
    for name in "$library" "$build/nnguard"; do
        [ -e "$name" ] || { echo "demo: $name is missing: run make demo" >&2; exit 1; }
    done
    [ -x "$venv/bin/python" ] || { echo "demo: $venv is missing: run make demo" >&2; exit 1; }
    build_shown=$(realpath --relative-to=. "$build")
    failed=0
    note "Preparing a synthetic data set with the real nnU-Net (once, a minute or two) ..."
    place=$(scripts/prepare_trainer.sh "$venv") || exit 1
    export nnUNet_raw=$place/raw nnUNet_preprocessed=$place/preprocessed nnUNet_results=$work/results
    export nnUNet_n_proc_DA=2 nnUNet_def_n_proc=1 nnUNet_compile=f OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
    mkdir -p "$nnUNet_results"
    [ $# -gt 0 ] || set -- shm oom segv
    for name; do
        case $name in
            shm) case_shm ;;
            oom) case_oom ;;
            segv) case_segv ;;
            *) echo "demo: no case named $name" >&2; exit 2 ;;
        esac
    done
    heading "The logs"
    note "nnguard report $build_shown/demo/latest      (shows the last of them again, at any time)"
    for name in "${skipped[@]}"; do echo "demo: not shown here: $name"; done
    exit "$failed"
}

main "$@"
