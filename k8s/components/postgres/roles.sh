#!/bin/sh
# Runs once, when the database is made. The sidecar's login may call a few
# functions (roles authz_sidecar and authz_revoker, which the migration fills
# with rights) and read no table but the revocations.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$SIDECAR_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
create role authz_sidecar nologin;
create role authz_revoker nologin;
create role jwt_bouncer login password :'password' in role authz_sidecar, authz_revoker;
SQL
