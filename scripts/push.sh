#!/bin/sh
# Pushes the chart in dist to the registry of scripts/names.env, and prints the
# digests of chart and image to $GITHUB_OUTPUT. Docker is logged in already; Helm
# reads the same credentials.
set -eu
cd "$(dirname "$0")/.."
. scripts/names.env
version=${GITHUB_REF_NAME#v}
scripts/helm.sh push "dist/jwt-bouncer-$version.tgz" "oci://${CHART%/*}" \
    --registry-config "${DOCKER_CONFIG:-$HOME/.docker}/config.json" 2>&1 | tee dist/push.log
chart=$(sed -n 's/^Digest: //p' dist/push.log)
image=$(docker buildx imagetools inspect "$IMAGE:$version" --format '{{.Manifest.Digest}}')
for digest in "$chart" "$image"; do
    case "$digest" in sha256:*) ;; *) echo "push.sh: no digest of the chart or of the image: $chart, $image" >&2; exit 1 ;; esac
done
echo "chart-digest=$chart" >>"${GITHUB_OUTPUT:?}"
echo "image-digest=$image" >>"$GITHUB_OUTPUT"
