#!/bin/sh
# Installs Schemathesis, test/schemathesis.txt, into .tools/schemathesis. It does
# nothing if exactly this list is installed for this Python, so it works offline.
set -eu
cd "$(dirname "$0")/.."
tools=.tools
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || { echo "make tools: python3 (3.10 to 3.14) is needed to fetch Schemathesis for the tests" >&2; exit 1; }
stamp=$tools/schemathesis/.installed-$(sha256sum test/schemathesis.txt | cut -c1-16)-$python
[ -e "$stamp" ] && exit 0
echo "make tools: fetching Schemathesis for the tests (about 10 MB, once)"
mkdir -p "$tools"
new=$(mktemp -d "$tools/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT INT TERM
PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
    python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --require-hashes --target "$new" -r test/schemathesis.txt
chmod -R go+rX "$new"
: >"$new/${stamp##*/}"
rm -rf "$tools/schemathesis"
mv "$new" "$tools/schemathesis"
