# What the scripts beside this file share. Sourced, never run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 71

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$1" >&2; exit "${2:-1}"; }

# What a build needs beyond the toolchain: the headers of c-ares, nghttp2 and OpenSSL.
build_packages=(libc-ares-dev libnghttp2-dev libssl-dev)
# What the conformance probe and the measures are written in; openssl makes certificates for them and for the tests.
# shellcheck disable=SC2034  # used by the scripts that source this file
python_packages=(python3 openssl)

is_installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# A tool counts as there when its command is found, wherever it came from; a library when its package is installed.
is_present() {
    case $1 in
        python3 | openssl | valgrind | strace | curl | wrk | haproxy) command -v "$1" >/dev/null ;;
        nginx-light) [[ -x /usr/sbin/nginx ]] || command -v nginx >/dev/null ;;
        nodejs) command -v node >/dev/null ;;
        python3-venv) python3 -c 'import ensurepip' 2>/dev/null ;;
        *) is_installed "$1" ;;
    esac
}

# ensure_packages PACKAGE...: installs what is missing of these Debian packages, and nothing else.
ensure_packages() {
    local package missing=() as_root=()
    if ! command -v dpkg-query >/dev/null; then
        echo "note: this is not Debian; these are expected to be here: $*" >&2
        return
    fi
    for package in "$@"; do
        is_present "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    echo "missing: ${missing[*]}; installing with apt-get"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "not root and no sudo; please install: ${missing[*]}" 77
        as_root=(sudo)
    fi
    # Package lists may be absent (a container) or old, so they are fetched first; another apt may hold the lock.
    "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 update -qq ||
        echo "note: apt-get update failed; trying with the lists that are here" >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq \
        --no-install-recommends "${missing[@]}" >/dev/null || fail "could not install: ${missing[*]}" 77
    for package in "${missing[@]}"; do
        is_present "$package" || fail "installed $package, and yet it is not found" 77
    done
}

# The Python with the package h2 (PyPI), for peers that speak HTTP/2: the usual one, or one in the cache, made for it.
# shellcheck disable=SC2034  # used by the scripts that source this file
use_python_with_h2() {
    python=python3
    python3 -c 'import h2' 2>/dev/null && return
    local folder=${HEADFIRST_CACHE:-$HOME/.cache/headfirst-measure}/h2
    python=$folder/bin/python
    "$python" -c 'import h2' 2>/dev/null && return
    ensure_packages python3-venv
    echo "missing: the Python package h2; fetching it from PyPI into $folder"
    python3 -m venv "$folder" && "$folder/bin/pip" install --quiet --disable-pip-version-check 'h2>=4,<5' ||
        fail "could not fetch the Python package h2" 77
}

require_swift() {
    local version
    command -v swift >/dev/null || fail "no swift in PATH; install a Swift 6.2 toolchain or newer, or use the Dockerfile" 69
    version=$(swift --version 2>&1 | sed -n 's/.*Swift version \([0-9]*\.[0-9]*\).*/\1/p' | head -1)
    [[ $(printf '%s\n' 6.2 "${version:-0}" | sort -V | head -1) == 6.2 ]] ||
        fail "Swift 6.2 or newer is needed, this is ${version:-unknown}" 69
}

build_release() {
    require_swift
    ensure_packages "${build_packages[@]}"
    swift build -c release
}

# The binary that scripts measure: of this checkout, or the one HEADFIRST_BINARY names (then nothing is built).
release_binary() {
    if [[ -n ${HEADFIRST_BINARY:-} ]]; then
        [[ -x $HEADFIRST_BINARY ]] || fail "HEADFIRST_BINARY=$HEADFIRST_BINARY is not an executable"
    else
        build_release
        HEADFIRST_BINARY=$(swift build -c release --show-bin-path)/headfirst
    fi
    export HEADFIRST_BINARY
}

# wants WORD ARGUMENT...: whether WORD is among the arguments.
wants() {
    local word=$1 argument
    shift
    for argument in "$@"; do
        [[ $argument == "$word" ]] && return 0
    done
    return 1
}
