#!/bin/sh
# Installs what builds the documentation's site into .tools/docs: the packages that
# test/docs.txt pins and, where npm is installed, Mermaid, which draws the diagrams
# in the reader's browser. What is installed already is not fetched again, so it
# works offline.
set -eu
cd "$(dirname "$0")/.."

tools=.tools
docs=$tools/docs
stamp=$docs/.stamp-$(sha256sum test/docs.txt | cut -c1-16)
mermaid=11.17.2
mermaid_sum=581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8
drawn=$docs/mermaid-$mermaid.min.js

if [ -e "$stamp" ] && { [ -e "$drawn" ] || ! command -v npm >/dev/null; }; then
    exit 0
fi

# First into a separate directory, so that an interrupted download leaves what is
# installed as it is.
mkdir -p "$tools"
new=$(mktemp -d "$tools/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT INT TERM

if [ ! -e "$stamp" ]; then
    command -v python3 >/dev/null || { echo "make docs: python3 (3.10 to 3.14) is needed to build the documentation" >&2; exit 1; }
    python3 -m pip --version >/dev/null 2>&1 || { echo "make docs: pip is needed to fetch what builds the documentation (Debian: apt-get install python3-pip)" >&2; exit 1; }
    echo "make docs: fetching mkdocs-material (about 20 MB, once)"
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
        python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --require-hashes --target "$new/docs" -r test/docs.txt
    chmod -R go+rX "$new/docs"
    : >"$new/docs/$(basename "$stamp")"
    rm -rf "$docs"
    mv "$new/docs" "$docs"
fi

if [ ! -e "$drawn" ] && command -v npm >/dev/null; then
    echo "make docs: fetching mermaid (about 20 MB, once)"
    (cd "$new" && npm pack --silent "mermaid@$mermaid" >/dev/null && tar -xzf "mermaid-$mermaid.tgz" package/dist/mermaid.min.js)
    echo "$mermaid_sum  $new/package/dist/mermaid.min.js" | sha256sum --check --quiet
    mv "$new/package/dist/mermaid.min.js" "$drawn"
fi
