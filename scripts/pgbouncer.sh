#!/bin/sh
# Unpacks Debian's pgbouncer into .tools, unless pgbouncer is available. It does not
# install the package, because that needs root and starts a service.
set -eu
cd "$(dirname "$0")/.."
tools=.tools
if [ -x "$tools/pgbouncer/usr/sbin/pgbouncer" ] || [ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null; then
    exit 0
fi
command -v apt-get >/dev/null || { echo "make tools: neither pgbouncer nor apt-get is available: the pgbouncer test fails in CI and is skipped elsewhere" >&2; exit 0; }
echo "make tools: fetching pgbouncer for the tests (once)"
mkdir -p "$tools"
new=$(mktemp -d "$tools/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT INT TERM
mkdir -p "$new/lists/partial" "$new/cache/archives/partial" "$new/root"
apt="apt-get -qq -o Acquire::Retries=3 -o Dir::State::Lists=$PWD/$new/lists -o Dir::Cache=$PWD/$new/cache -o Debug::NoLocking=1 -o APT::Sandbox::User=$(id -un)"
if $apt update && $apt install --yes --no-install-recommends --download-only pgbouncer &&
    for deb in "$new"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$new/root"; done; then
    chmod -R go+rX "$new/root"
    rm -rf "$tools/pgbouncer"
    mv "$new/root" "$tools/pgbouncer"
else
    echo "make tools: pgbouncer could not be fetched: the pgbouncer test fails in CI and is skipped elsewhere" >&2
fi
