#!/bin/sh
# The user and /var/lib/jwt-bouncer stay: the store holds the revocations.
set -eu
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
