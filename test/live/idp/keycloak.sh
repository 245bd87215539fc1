#!/bin/sh
# Fetches Keycloak into .tools/live, by Maven, and builds it for an in-memory database
# with Shared Signals, which are an experimental feature. It does nothing if that has
# been done. It needs Maven and Java 17 or newer.
set -eu
cd "$(dirname "$0")/../../.."

version=26.7.3
sha256=77657f30b7e90d70f727712ce1c967f430fd6a5e9f458d32d8c6df0635345f47

live=.tools/live
mkdir -p "$live"
[ "$(readlink "$live/keycloak" 2>/dev/null)" = "keycloak-$version" ] && exit 0
for program in java mvn; do
    command -v "$program" >/dev/null || { echo "keycloak.sh: $program is needed (Debian: apt-get install openjdk-17-jre-headless maven)" >&2; exit 1; }
done

new=$(mktemp -d "$live/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT INT TERM
echo "keycloak.sh: fetching and building Keycloak $version (about 180 MB, once)"
name=keycloak-quarkus-dist-$version.tar.gz
mvn -q -B dependency:copy "-Dartifact=org.keycloak:keycloak-quarkus-dist:$version:tar.gz" "-DoutputDirectory=$PWD/$new"
echo "$sha256  $new/$name" | sha256sum -c --quiet -
tar -xzf "$new/$name" -C "$new"
"$new/keycloak-$version/bin/kc.sh" build --db=dev-mem --features=ssf --health-enabled=true
rm -rf "$live/keycloak-$version"
mv "$new/keycloak-$version" "$live/"
ln -sfn "keycloak-$version" "$live/keycloak"
