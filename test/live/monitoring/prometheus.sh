#!/bin/sh
# Unpacks Debian's Prometheus and promtool into .tools/live, without installing the
# package, which would start a service. It does nothing if that has been done.
set -eu
cd "$(dirname "$0")/../../.."

live=.tools/live
[ -x "$live/prometheus/usr/bin/promtool" ] && exit 0
command -v apt-get >/dev/null || { echo "prometheus.sh: apt-get is needed; or put prometheus and promtool into $live/prometheus/usr/bin" >&2; exit 1; }
mkdir -p "$live"
new=$(mktemp -d "$live/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT INT TERM
(cd "$new" && apt-get download prometheus)
dpkg-deb -x "$new"/prometheus_*.deb "$new/prometheus"
rm -rf "$live/prometheus"
mv "$new/prometheus" "$live/prometheus"
