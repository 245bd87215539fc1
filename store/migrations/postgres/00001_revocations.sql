-- +goose Up

-- +goose StatementBegin
do $$ begin
  if current_setting('server_version_num')::int < 140000 then
    raise exception 'PostgreSQL 14 or newer is needed, this is %', current_setting('server_version');
  end if;
end $$;
-- +goose StatementEnd

-- Facts for the whole fleet; one row.
create table authz.meta (
  one               boolean  primary key default true check (one),
  schema_version    int      not null,                    -- of this schema
  schema_compatible int      not null,                    -- the oldest code that can still use it
  epoch             bigint   not null default 1,          -- raised after a restore: every sidecar reloads
  max_staleness     interval not null default '30 seconds' check (max_staleness > '0'),
  max_token_ttl     interval not null default '24 hours'   check (max_token_ttl > '0')
);
insert into authz.meta (schema_version, schema_compatible) values (1, 1);

create table authz.revocations (
  id         bigint      generated always as identity primary key,  -- for people; never a watermark
  kind       smallint    not null check (kind between 1 and 6),     -- 1 jti, 2 sub, 3 sid, 4 kid, 5 iss, 6 token
  iss        text        not null check (iss <> ''),
  value      text        not null default '' check ((value = '') = (kind = 5)),
  not_before timestamptz check (isfinite(not_before)),              -- null: every matching token; else: those issued before it
  expires_at timestamptz not null check (isfinite(expires_at)),     -- null on insert: filled by the trigger
  revoked_at timestamptz not null default now(),
  actor      text        not null default session_user,             -- who ordered it, as the writer states
  login      name        not null default session_user,             -- the role that wrote it; always stamped
  reason     text        not null default '',
  key        bytea       not null check (length(key) = 16),         -- what enforcement compares; always stamped
  xid        bigint      not null                                   -- transaction of the last change; always stamped
);
-- One index makes writing idempotent and answers point lookups.
create unique index revocations_once    on authz.revocations (key, coalesce(not_before, 'infinity'::timestamptz)) include (expires_at);
create index        revocations_xid     on authz.revocations (xid);
create index        revocations_expires on authz.revocations (expires_at);

-- The same value as authz.RevocationKey in Go.
-- +goose StatementBegin
create function authz.revocation_key(kind smallint, iss text, value text) returns bytea
language sql immutable strict parallel safe
return substr(sha256(convert_to(kind::text || ':' || octet_length(convert_to(iss, 'UTF8'))::text || ':' || iss || ':' || value, 'UTF8')), 1, 16);
-- +goose StatementEnd

-- +goose StatementBegin
create function authz.revocation_stamp() returns trigger language plpgsql set search_path = pg_catalog as $$
declare
  at timestamptz := clock_timestamp();  -- not now(): in a long transaction that lies in the past
begin
  if tg_op = 'UPDATE' then
    if (new.id, new.kind, new.iss, new.value, new.not_before, new.revoked_at, new.actor, new.login, new.reason)
         is distinct from (old.id, old.kind, old.iss, old.value, old.not_before, old.revoked_at, old.actor, old.login, old.reason)
       or new.expires_at is null or new.expires_at < old.expires_at then
      raise exception 'a revocation cannot be changed, only its expiry moved later'
        using errcode = 'check_violation', hint = 'Insert a stricter one beside it; the strictest wins.';
    end if;
  else
    new.login := session_user;
    if new.not_before = 'infinity' then
      new.not_before := null;
    end if;
    if new.not_before is null and new.kind in (2, 5) then
      new.not_before := at;
    end if;
    if new.expires_at is null then
      -- A withdrawn key can sign tokens of any age as long as it is published: no end by itself.
      if new.kind = 4 and new.not_before is null then
        new.expires_at := 'infinity';
      else
        new.expires_at := greatest(at, new.not_before) + (select m.max_token_ttl from authz.meta m);
      end if;
    end if;
  end if;
  new.expires_at := least(new.expires_at, '9999-12-31 00:00:00+00'::timestamptz);
  -- authz.revocation_key spelled out: calling it would make a single insert a fifth slower.
  new.key := substr(sha256(convert_to(new.kind::text || ':' || octet_length(convert_to(new.iss, 'UTF8'))::text || ':' || new.iss || ':' || new.value, 'UTF8')), 1, 16);
  new.xid := pg_current_xact_id()::text::bigint;
  -- Others see a row at commit. Were it not durable by then, a crash could take it back and give its
  -- transaction id to another row, which a follower that saw the first would never be sent.
  if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  return new;
end $$;
-- +goose StatementEnd
create trigger revocation_stamp before insert or update on authz.revocations
  for each row execute function authz.revocation_stamp();
-- Also for rows that arrive by logical replication: their ids are another server's.
alter table authz.revocations enable always trigger revocation_stamp;

-- +goose StatementBegin
create function authz.revocation_keep() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  raise exception 'a live revocation cannot be deleted: it ends when it expires'
    using errcode = 'check_violation', hint = 'Sidecars keep what they have received until it expires.';
end $$;
-- +goose StatementEnd
create trigger revocation_keep before delete on authz.revocations
  for each row when (old.expires_at > clock_timestamp()) execute function authz.revocation_keep();
create trigger revocation_keep_all before truncate on authz.revocations
  for each statement execute function authz.revocation_keep();

-- What changed: rows with xid > since, and rows of the transactions that were open at the caller's last snapshot.
-- The first row describes the snapshot that all rows are read in.
--  * STABLE: everything inside sees the calling statement's one snapshot.
--  * One SQL statement: called in a select list its rows are streamed, not spooled.
--  * The upper bound looks idle: it makes the planner expect few rows and use the index, whatever "since" is.
--  * Its body is bound when created, so a caller's search_path cannot reach into it.
create type authz.change as (key bytea, not_before bigint, expires bigint, xid bigint, snapshot text[]);
-- +goose StatementBegin
create function authz.changes(since bigint, open bigint[], nonce text) returns setof authz.change
language sql stable security definer
begin atomic
  select null::bytea, null::bigint, null::bigint, null::bigint,
      array[nonce,
            m.schema_version::text, m.schema_compatible::text,
            (select c.system_identifier::text from pg_control_system() c),
            case when pg_is_in_recovery() then '' else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end,
            m.epoch::text,
            pg_is_in_recovery()::text,
            (now() = statement_timestamp())::text,  -- a simple query outside a transaction
            date_part('epoch', clock_timestamp())::text,
            date_part('epoch', m.max_staleness)::text,
            date_part('epoch', m.max_token_ttl)::text,
            pg_snapshot_xmin(pg_current_snapshot())::text,
            pg_snapshot_xmax(pg_current_snapshot())::text]
      || array(select x::text from pg_snapshot_xip(pg_current_snapshot()) x)
    from authz.meta m
  union all
  select r.key,
      case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end,
      ceil(date_part('epoch', r.expires_at))::bigint, r.xid, null::text[]
    from authz.revocations r where r.xid > since and r.xid <= 9223372036854775807
  union all
  select r.key,
      case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end,
      ceil(date_part('epoch', r.expires_at))::bigint, r.xid, null::text[]
    from authz.revocations r where r.xid = any (open) and r.xid <= since;
end;
-- +goose StatementEnd

-- Point lookup: the strictest not_before (Unix seconds, rounded up; the largest bigint: always; 0: none).
-- +goose StatementBegin
create function authz.lookup(keys bytea[], nonce text, out echo text, out recovering boolean, out fresh boolean, out level bigint)
language sql stable security definer set lock_timeout = '150ms'
begin atomic
  select nonce, pg_is_in_recovery(), now() = statement_timestamp(),
      coalesce(max(case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end), 0)
    from authz.revocations r where r.key = any (keys) and r.expires_at > now() - interval '5 minutes';
end;
-- +goose StatementEnd

-- The writer's door: all or none, idempotent, rows returned as they are stored.
-- +goose StatementBegin
create function authz.revoke(kinds smallint[], issuers text[], vals text[], not_befores timestamptz[], expiries timestamptz[], actors text[], reasons text[])
returns table (key bytea, id bigint, not_before timestamptz, expires_at timestamptz, revoked_at timestamptz, actor text, reason text)
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '2s' as $$
#variable_conflict use_column
begin
  insert into authz.revocations as r (kind, iss, value, not_before, expires_at, actor, reason)
    select u.kind, u.iss, u.val, u.nb, u.exp, coalesce(nullif(u.act, ''), session_user), u.why
      from unnest(kinds, issuers, vals, not_befores, expiries, actors, reasons) as u (kind, iss, val, nb, exp, act, why)
    on conflict (key, (coalesce(not_before, 'infinity'::timestamptz)))
      do update set expires_at = excluded.expires_at where excluded.expires_at > r.expires_at;
  -- A statement of its own: it also sees rows that others committed while the first was waiting for them.
  return query
    select r.key, r.id, r.not_before, r.expires_at, r.revoked_at, r.actor, r.reason
      from unnest(kinds, issuers, vals, not_befores) as u (kind, iss, val, nb)
      join authz.revocations r on r.key = authz.revocation_key(u.kind, u.iss, u.val)
       and coalesce(r.not_before, 'infinity') = coalesce(u.nb, 'infinity');
end $$;
-- +goose StatementEnd

-- Deletes a batch of long expired revocations.
-- +goose StatementBegin
create function authz.gc(grace interval default '1 hour', batch int default 5000) returns bigint
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '2s' as $$
declare n bigint;
begin
  delete from authz.revocations where id in (
    select r.id from authz.revocations r where r.expires_at < now() - greatest(grace, '10 minutes')
      order by r.expires_at limit batch for update skip locked);
  get diagnostics n = row_count;
  return n;
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
create function authz.about(out schema_version int, out schema_compatible int, out max_staleness float8, out max_token_ttl float8, out recovering boolean)
language sql stable security definer
begin atomic
  select m.schema_version, m.schema_compatible, date_part('epoch', m.max_staleness), date_part('epoch', m.max_token_ttl), pg_is_in_recovery() from authz.meta m;
end;
-- +goose StatementEnd

-- The bridge from another writer's table of revoked tokens. The trigger's argument is the issuer; to_jsonb makes
-- every column but jti optional. It runs as its owner, so that writer needs no rights here.
-- +goose StatementBegin
create function authz.bridge() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
declare
  f jsonb := to_jsonb(new);
begin
  if coalesce(f->>'jti', '') <> '' then
    perform authz.revoke(array[1]::smallint[], array[tg_argv[0]], array[f->>'jti'], array[null]::timestamptz[],
      array[authz.bridge_time(f->>'expires_at')], array[left(coalesce(f->>'user_id', ''), 200)], array['bridge: ' || tg_table_name]);
  end if;
  return null;
end $$;
-- +goose StatementEnd

-- A time without zone is read as UTC and as the session's; the later one counts.
-- +goose StatementBegin
create function authz.bridge_time(t text) returns timestamptz language sql stable
return case when t ~ '([zZ]|[+-][0-9:]+|infinity)$' and t !~ '^[0-9]+-[0-9]+-[0-9]+$' then t::timestamptz
            else greatest(t::timestamptz, (t::timestamp) at time zone 'UTC') end;
-- +goose StatementEnd

-- +goose StatementBegin
create function authz.install_bridge(tbl text, issuer text) returns bigint language plpgsql set search_path = pg_catalog as $$
declare
  t regclass;
  n bigint;
begin
  perform set_config('search_path', session_path, true) from (select reset_val as session_path from pg_settings where name = 'search_path') s;
  t := to_regclass(tbl);
  if t is null then
    raise exception 'table % does not exist', tbl using errcode = 'undefined_table';
  end if;
  if coalesce(issuer, '') = '' then
    raise exception 'an issuer is needed' using errcode = 'invalid_parameter_value';
  end if;
  if not exists (select from pg_attribute a where a.attrelid = t and a.attname = 'jti' and not a.attisdropped) then
    raise exception 'table % has no column jti', tbl using errcode = 'undefined_column';
  end if;
  -- Taking the trigger's lock waits for writers; whatever they committed is then copied below.
  execute format('drop trigger if exists authz_bridge on %s', t);
  execute format('create trigger authz_bridge after insert or update on %s for each row execute function authz.bridge(%L)', t, issuer);
  execute format($q$
    with r as (select distinct on (f->>'jti') f from (select to_jsonb(x) as f from %s x) s where coalesce(f->>'jti', '') <> '' order by f->>'jti'),
    a as (select array_agg(1::smallint) k, array_agg(%L::text) i, array_agg(f->>'jti') v, array_agg(null::timestamptz) nb,
                 array_agg(authz.bridge_time(f->>'expires_at')) e, array_agg(left(coalesce(f->>'user_id', ''), 200)) u, array_agg(%L::text) w
            from r where authz.bridge_time(f->>'expires_at') is null or authz.bridge_time(f->>'expires_at') > now())
    select count(d.id) from a, authz.revoke(a.k, a.i, a.v, a.nb, a.e, a.u, a.w) d $q$, t, issuer, 'bridge: ' || t) into n;
  return n;
end $$;
-- +goose StatementEnd

revoke all on schema authz from public;
revoke all on all tables in schema authz from public;
revoke all on all functions in schema authz from public;

-- Roles, where this login may create them; docs/store.md has the statements for an administrator.
-- +goose StatementBegin
do $$
declare r text;
begin
  foreach r in array array['authz_sidecar', 'authz_revoker'] loop
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = r) then
        execute format('create role %I nologin', r);
      end if;
    exception
      when duplicate_object or unique_violation then null;  -- another database of the cluster was faster
      when insufficient_privilege then raise notice 'role % cannot be created by %', r, current_user;
    end;
  end loop;
  if exists (select from pg_catalog.pg_roles where rolname = 'authz_sidecar') then
    grant usage on schema authz to authz_sidecar;
    grant execute on function authz.changes, authz.lookup, authz.about to authz_sidecar;
  end if;
  if exists (select from pg_catalog.pg_roles where rolname = 'authz_revoker') then
    grant usage on schema authz to authz_revoker;
    grant execute on function authz.revoke, authz.gc, authz.about, authz.revocation_key to authz_revoker;
    grant select on authz.revocations, authz.meta to authz_revoker;
    grant insert (kind, iss, value, not_before, expires_at, actor, reason) on authz.revocations to authz_revoker;
  end if;
end $$;
-- +goose StatementEnd
