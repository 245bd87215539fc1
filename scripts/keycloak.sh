#!/bin/sh
# Fetches the Keycloak of make test-keycloak into .tools/keycloak, by Maven.
set -eu
cd "$(dirname "$0")/.."
version=26.7.3
sha256=27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f
tools=.tools
[ "$(cat "$tools/keycloak/version.txt" 2>/dev/null)" = "Keycloak - Version $version" ] && exit 0
echo "make test-keycloak: fetching Keycloak (once)"
new=$(mktemp -d "$tools/.new-XXXXXX")
trap 'rm -rf "$new"' EXIT INT TERM
mvn -q -B dependency:copy "-Dartifact=org.keycloak:keycloak-quarkus-dist:$version:zip" "-DoutputDirectory=$new"
echo "$sha256  $new/keycloak-quarkus-dist-$version.zip" | sha256sum -c --quiet -
unzip -q "$new/keycloak-quarkus-dist-$version.zip" -d "$new"
rm -rf "$tools/keycloak"
mv "$new/keycloak-$version" "$tools/keycloak"
