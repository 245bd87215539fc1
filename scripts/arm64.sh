#!/bin/sh
# Installs what the dynamic module needs for arm64: Zig's C compiler into .tools/zig, and
# the Envoy for arm64 into .tools/arm64.
set -eu
cd "$(dirname "$0")/.."

if ! command -v qemu-aarch64-static >/dev/null || [ ! -e /usr/aarch64-linux-gnu/lib/libc.so.6 ]; then
    echo "make test-module-arm64: QEMU and arm64's C library are needed to run Envoy for arm64 (Debian: apt-get install qemu-user-static libc6-arm64-cross)" >&2
    exit 1
fi
scripts/wheels.sh zig
scripts/wheels.sh arm64 --platform manylinux_2_31_aarch64
