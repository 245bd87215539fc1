#!/bin/sh
# Unpacks Debian's Prometheus and promtool into .tools/live, without installing the
# package, which needs root and starts a service. It does nothing if that has been
# done.
set -eu
cd "$(dirname "$0")/../../.."

live=.tools/live
[ -x "$live/prometheus/usr/bin/promtool" ] && exit 0
command -v apt-get >/dev/null || { echo "prometheus.sh: apt-get is needed; or put prometheus and promtool into $live/prometheus/usr/bin" >&2; exit 1; }
echo "prometheus.sh: fetching Prometheus (once)"
mkdir -p "$live"
new=$(mktemp -d "$live/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT INT TERM
mkdir -p "$new/lists/partial" "$new/root"
apt="apt-get -qq -o Acquire::Retries=3 -o Dir::State::Lists=$PWD/$new/lists -o Debug::NoLocking=1 -o APT::Sandbox::User=$(id -un)"
$apt update
(cd "$new" && $apt download prometheus)
dpkg-deb -x "$new"/prometheus_*.deb "$new/root"
chmod -R go+rX "$new/root"
rm -rf "$live/prometheus"
mv "$new/root" "$live/prometheus"
