#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Everything that building and testing need, on a Debian or Ubuntu machine that has nothing but make
# and a shell:
#
#   setup.sh build     compiler and the libraries of the monitor
#   setup.sh test      build + cmocka, pytest, tools of the fault tests
#   setup.sh trainer   test + the real nnU-Net (2 GB) and an old torch
#   setup.sh lint      build + the linters
#   setup.sh latest    trainer + the newest nnU-Net with the torch it asks for (6 GB)
#
# Packages are installed with apt where that is allowed (root, or sudo without a password); else one
# line says what to install. Python packages go into environments of their own under build/. The
# second call takes well under a second.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
level=${1:-build}
log=build/setup.log
mkdir -p build

say() { printf 'setup: %s\n' "$*"; }

# ---- packages ---------------------------------------------------------------------------------
build_pkgs=(gcc libc6-dev make binutils libunwind-dev liblzma-dev libjansson-dev libpcre2-dev python3)
test_pkgs=("${build_pkgs[@]}" libcmocka-dev python3-venv)
lint_pkgs=("${build_pkgs[@]}" clang clang-tidy clang-format cppcheck shellcheck libcmocka-dev git)
# Without these single tests are skipped, with the reason.
test_extra=(strace runc user-mode-linux g++ gcc-multilib e2fsprogs btrfs-progs valgrind python3-torch
            libpython3-testsuite util-linux procps)
lint_extra=(codespell "libclang-rt-$(clang -dumpversion 2>/dev/null | cut -d. -f1)-dev")

absent() {
    local p
    for p; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
    done
}

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true 2>/dev/null; then as_root=(sudo -n); else as_root=(false); fi
fi

apt_updated=
apt_get() {
    if [ -z "$apt_updated" ]; then
        "${as_root[@]}" apt-get -qq update >>"$log" 2>&1 || return 1
        apt_updated=1
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y --no-install-recommends install "$@" >>"$log" 2>&1
}

# packages NEEDED|EXTRA NAME...: what is missing is installed or named. A machine without dpkg is
# taken at its word: the compiler will say what it lacks.
packages() {
    local kind=$1 missing p
    shift
    if ! command -v dpkg-query >/dev/null; then
        [ "$kind" = extra ] || say "no dpkg here; needed (Debian's names): $*"
        return 0
    fi
    mapfile -t missing < <(absent "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$kind" = needed ]; then
        say "installing ${missing[*]}"
        apt_get "${missing[@]}" && return 0
        say "please install first:  sudo apt install ${missing[*]}   (details: $log)"
        exit 1
    fi
    # One at a time: a release that lacks one of them shall still get the others. What could not be
    # had once is not tried again until build/ is removed.
    for p in "${missing[@]}"; do
        if [ ! -e "build/.no-$p" ] && ! apt_get "$p"; then
            say "optional package $p not installed; tests that need it are skipped"
            : >"build/.no-$p"
        fi
    done
}

# ---- Python environments ----------------------------------------------------------------------
# environment DIR PYTHON ARG...: made once; a stamp holds the recipe, so that a changed recipe makes
# it anew. The packages are installed by the function named make_<DIR>.
environment() {
    local dir=build/$1 python=$2 recipe
    recipe=$(declare -f "make_${1//-/_}"; "$python" -c 'import sys; print(sys.version)')
    [ "$(cat "$dir/.recipe" 2>/dev/null)" != "$recipe" ] || return 0
    say "making $dir (log: $log)"
    rm -rf "$dir"
    if ! { "$python" -m venv ${3:+"$3"} "$dir" && "make_${1//-/_}" "$dir/bin/python"; } >>"$log" 2>&1; then
        say "could not make $dir; the end of $log:"
        tail -n 15 "$log"
        exit 1
    fi
    printf '%s\n' "$recipe" >"$dir/.recipe"
}

make_venv() {
    "$1" -m pip install -q 'pytest>=7,<10' 'pytest-timeout>=2,<3' 'pytest-xdist>=3,<4' 'jsonschema>=4,<5' numpy
}

# The pinned releases are the ones whose ways of dying the tests describe. From nnU-Net 2.6.4 on it
# needs torchvision, hence --no-deps with the list of what 2.6.0 imports.
make_venv_nnunet() {
    "$1" -m pip install -q torch==2.13.0
    "$1" -m pip install -q --no-deps nnunetv2==2.6.0 dynamic-network-architectures==0.3.1 \
        batchgenerators==0.25.5 batchgeneratorsv2==0.3.6 acvl-utils==0.2.6
    "$1" -m pip install -q numpy scipy scikit-image scikit-learn simpleitk nibabel tifffile \
        imagecodecs blosc2 tqdm pandas einops threadpoolctl matplotlib seaborn graphviz requests \
        yacs connected-components-3d future
}

# Debian's own torch (1.13) sizes shared memory by ftruncate alone: a full /dev/shm is a SIGBUS.
make_venv_old() {
    "$1" -m pip install -q --no-deps batchgenerators==0.25.5 threadpoolctl future
}

make_venv_latest() {
    "$1" -m pip install -q nnunetv2
}

python=$(command -v python3 || true)
has_torch='import importlib.util as u; print(u.find_spec("torch") or "")'
need_python() {
    [ -n "$python" ] || python=$(command -v python3) || { say "no python3"; exit 1; }
}

set_up() {
    case $1 in
    build)
        packages needed "${build_pkgs[@]}"
        ;;
    test)
        packages needed "${test_pkgs[@]}"
        packages extra "${test_extra[@]}"
        need_python
        environment venv "$python"
        ;;
    trainer)
        set_up test
        environment venv-nnunet "$python"
        if [ -x /usr/bin/python3 ] && [ -n "$(/usr/bin/python3 -c "$has_torch")" ]; then
            environment venv-old /usr/bin/python3 --system-site-packages
        fi
        ;;
    lint)
        packages needed "${lint_pkgs[@]}"
        lint_extra[1]="libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
        packages extra "${lint_extra[@]}"
        ;;
    latest)
        set_up trainer
        environment venv-latest "$python"
        ;;
    *)
        say "unknown level '$1': build, test, trainer, lint or latest"
        exit 2
        ;;
    esac
}

# One at a time: two checks on one machine would fill the same environment at once.
exec 9>build/.setup.lock
flock 9
set_up "$level"
