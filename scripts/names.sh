#!/bin/sh
# Reads scripts/names.env.
#   names.sh print [TAG]   prints the names, and REGISTRY and VERSION, as NAME=VALUE lines
#   names.sh check TAG     fails unless TAG can be released under these names
set -eu
cd "$(dirname "$0")/.."
. scripts/names.env
fail() { echo "names.sh: $*" >&2; exit 1; }

case "${1:-}" in
print)
    for name in REPOSITORY IMAGE CHART RUNBOOK; do eval "echo $name=\$$name"; done
    echo "REGISTRY=${IMAGE%%/*}"
    [ -z "${2:-}" ] || echo "VERSION=${2#v}"
    ;;
check)
    version=${2:?usage: names.sh check TAG}
    # A candidate such as v0.1.0-rc.1 has the changelog and the chart of 0.1.0.
    version=${version#v}
    version=${version%%-*}
    for value in "$REPOSITORY" "$IMAGE" "$CHART" "$RUNBOOK"; do
        case "$value" in *.example/*) fail "$value is an example: set the names in scripts/names.env, run \`make names\`, and commit" ;; esac
    done
    grep -qx "module $REPOSITORY" go.mod || fail "the Go module is not importable: run \`scripts/module-path.sh $REPOSITORY\`, and commit"
    [ "${IMAGE%%/*}" = "${CHART%%/*}" ] || fail "IMAGE and CHART are in different registries, and the workflow logs in to one"
    grep -q "^## \[$version\]" CHANGELOG.md || fail "CHANGELOG.md has no section [$version]"
    grep -qx "version: $version" k8s/chart/Chart.yaml || fail "k8s/chart/Chart.yaml is not version $version"
    grep -qx "appVersion: $version" k8s/chart/Chart.yaml || fail "appVersion of k8s/chart/Chart.yaml is not $version"
    ;;
*) fail "usage: names.sh print [TAG] | check TAG" ;;
esac
