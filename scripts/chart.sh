#!/bin/sh
# Packages the chart as dist/jwt-bouncer-VERSION.tgz, with the published image as its
# default. In the repository the default is jwt-bouncer, which you build yourself.
set -eu
cd "$(dirname "$0")/.."
. scripts/names.env
version=${1:?usage: chart.sh VERSION}
version=${version#v}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
cp -R k8s/chart "$work/jwt-bouncer"
cp LICENSE "$work/jwt-bouncer/"
sed -i "s#^image: {repository: jwt-bouncer,#image: {repository: $IMAGE,#" "$work/jwt-bouncer/values.yaml"
grep -q "^image: {repository: $IMAGE," "$work/jwt-bouncer/values.yaml" || { echo "chart.sh: values.yaml has no image to replace" >&2; exit 1; }
mkdir -p dist
scripts/helm.sh package "$work/jwt-bouncer" --version "$version" --app-version "$version" --destination dist
