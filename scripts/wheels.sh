#!/bin/sh
# usage: wheels.sh NAME [PIP-OPTION...]
# Installs the Python wheels of test/NAME.txt into .tools/NAME. What is installed already is
# not fetched again, so it works offline.
set -eu
cd "$(dirname "$0")/.."

list=test/$1.txt into=.tools/$1
shift
stamp=$into/.stamp-$(sha256sum "$list" | cut -c1-16)
[ -e "$stamp" ] && exit 0
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
