#!/bin/sh
# Installs Zig's C compiler and the Envoy for arm64 into .tools/zig and .tools/arm64. What
# is installed already is not fetched again, so it works offline.
set -eu
cd "$(dirname "$0")/.."

if ! command -v qemu-aarch64-static >/dev/null || [ ! -e /usr/aarch64-linux-gnu/lib/libc.so.6 ]; then
    echo "make test-module-arm64: QEMU and arm64's C library are needed to run Envoy for arm64 (Debian: apt-get install qemu-user-static libc6-arm64-cross)" >&2
    exit 1
fi

# install NAME PIP-OPTIONS... installs test/NAME.txt into .tools/NAME.
install() {
    list=test/$1.txt into=.tools/$1
    shift
    stamp=$into/.stamp-$(sha256sum "$list" | cut -c1-16)
    [ -e "$stamp" ] && return
    # First into a separate directory, so that an interrupted download leaves what is
    # installed as it is.
    new=$(mktemp -d .tools/.new-XXXXXX)
    trap 'rm -rf "$new"' EXIT INT TERM
    echo "fetching $into (once)"
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
        python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --require-hashes "$@" --target "$new" -r "$list"
    chmod -R go+rX "$new"
    : >"$new/$(basename "$stamp")"
    rm -rf "$into"
    mv "$new" "$into"
}

install zig
install arm64 --platform manylinux_2_31_aarch64
