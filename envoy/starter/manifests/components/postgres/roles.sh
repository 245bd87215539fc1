#!/bin/sh
# Runs once, when the database is created. The migration grants the rights to the
# roles authz_sidecar and authz_revoker. With them, the sidecar's login may
# execute a few functions, read the revocations and add to them.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$SIDECAR_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
create role authz_sidecar nologin;
create role authz_revoker nologin;
create role jwt_bouncer login password :'password' in role authz_sidecar, authz_revoker;
SQL
