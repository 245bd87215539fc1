#!/bin/sh
# Stops the service when the package is removed, not when it is upgraded. dpkg says
# "remove", rpm says 0.
set -eu
case "${1:-}" in remove | 0) ;; *) exit 0 ;; esac
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now jwt-bouncer.service
fi
