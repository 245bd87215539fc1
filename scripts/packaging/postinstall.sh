#!/bin/sh
# Creates the user, and restarts the service if it runs. It does not start the
# service: the configuration is still an example. DPKG_ROOT is empty unless dpkg
# installs into another root.
set -eu
systemd-sysusers --root="${DPKG_ROOT:-/}" jwt-bouncer.conf
systemd-tmpfiles --root="${DPKG_ROOT:-/}" --create jwt-bouncer.conf
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart jwt-bouncer.service
fi
