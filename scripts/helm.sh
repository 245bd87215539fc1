#!/bin/sh
# Runs Helm in the version whose library the tests of the chart use.
set -eu
version=$(cd "$(dirname "$0")/../k8s" && go list -m -f '{{.Version}}' helm.sh/helm/v3)
exec go run "helm.sh/helm/v3/cmd/helm@$version" "$@"
