#!/bin/sh
# Installs Keycloak into .tools/live, from its distribution on Maven Central, and
# builds it for an in-memory database with Shared Signals, which are an experimental
# feature. It does nothing if that has been done. It needs Java 17 or newer.
set -eu
cd "$(dirname "$0")/../../.."

version=26.7.3
sha256=77657f30b7e90d70f727712ce1c967f430fd6a5e9f458d32d8c6df0635345f47

live=.tools/live
mkdir -p "$live"
[ "$(readlink "$live/keycloak" 2>/dev/null)" = "keycloak-$version" ] && exit 0
command -v java >/dev/null || { echo "keycloak.sh: Java 17 or newer is needed (Debian: apt-get install openjdk-17-jre-headless)" >&2; exit 1; }

new=$(mktemp -d "$live/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT INT TERM
echo "keycloak.sh: fetching and building Keycloak $version (about 180 MB, once)"
curl -fsSL -o "$new/dist.tar.gz" "https://repo.maven.apache.org/maven2/org/keycloak/keycloak-quarkus-dist/$version/keycloak-quarkus-dist-$version.tar.gz"
echo "$sha256  $new/dist.tar.gz" | sha256sum -c --quiet -
tar -xzf "$new/dist.tar.gz" -C "$new"
"$new/keycloak-$version/bin/kc.sh" build --db=dev-mem --features=ssf --health-enabled=true
rm -rf "$live/keycloak-$version"
mv "$new/keycloak-$version" "$live/"
ln -sfn "keycloak-$version" "$live/keycloak"
