#!/bin/sh
# Writes the manual page and the shells' completions, made by the program itself,
# into the directory DIR: DIR/jwt-bouncer.1 and DIR/completions.
#
#   scripts/release-files.sh DIR [VERSION]
set -eu
mkdir -p "$1"
dir=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
mkdir -p "$dir/completions"
go run -ldflags "-X main.version=${2:-dev}" . man >"$dir/jwt-bouncer.1"
for shell in bash zsh fish; do
	go run . completion "$shell" --program jwt-bouncer >"$dir/completions/jwt-bouncer.$shell"
done
