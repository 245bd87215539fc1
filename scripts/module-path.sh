#!/bin/sh
# Changes the path of the Go module, in every go.mod, import, string and import rule:
#   scripts/module-path.sh github.com/OWNER/jwt-bouncer
# A second run with the same path changes nothing.
set -eu
cd "$(dirname "$0")/.."
new=${1:?usage: module-path.sh NEWPATH}
old=$(go list -m -f '{{.Path}}')
# go refuses a path that is none, before anything has changed.
go mod edit -print -module="$new" >/dev/null
[ "$old" != "$new" ] || exit 0
# The path stands alone or before a slash. Names that only contain it stay.
quoted=$(printf '%s' "$old" | sed 's/[.]/\\./g')
find . \( -name .git -o -name .tools -o -name node_modules -o -name dist -o -name bin \) -prune -o \
    -type f \( -name '*.go' -o -name go.mod -o -name .golangci.yml \) -print0 |
    xargs -0 sed -E -i "s#(^|[^[:alnum:]_/.-])$quoted([]/\"\\\\[:space:],\$]|\$)#\1$new\2#g"
find . -name .tools -prune -o -name node_modules -prune -o -name '*.go' -print0 | xargs -0 gofmt -l -w
