-- +goose Up
-- A writer that is in the middle of a transaction is not waited for without end: others wait behind.
set local lock_timeout = '5s';

-- Whatever expires_at holds, the writer's insert goes on. Numbers are Unix seconds or milliseconds from 2001 on; what
-- else begins with a digit (or is 'infinity') is read as a time: without a zone as UTC and as the session's, and the
-- later one counts. What cannot be read is null, which is the default expiry.
-- +goose StatementBegin
create or replace function authz.bridge_time(t text) returns timestamptz language plpgsql stable set search_path = pg_catalog as $$
declare
  n numeric;
begin
  t := trim(both e' \t\r\n' from t);
  if t ~ '^[0-9]{9,30}([.][0-9]*)?$' then
    n := t::numeric;
    return case when n between 1e9 and 1e11 then to_timestamp(n::float8)
                when n between 1e12 and 1e14 then to_timestamp((n / 1000)::float8) end;
  elsif t ~ '^[0-9]{1,7}([.][0-9]*)?$' or t !~* '^([0-9]|infinity$)' then
    return null;  -- a span of time, or a word such as "now", is no time that a token ends
  elsif t ~ '([zZ]|[+-][0-9:]+|infinity)$' and t !~ '^[0-9]+-[0-9]+-[0-9]+$' then
    return t::timestamptz;
  end if;
  return greatest(t::timestamptz, (t::timestamp) at time zone 'UTC');
exception when others then
  return null;
end $$;
-- +goose StatementEnd

-- As before, but a number is not rounded by a setting of the writer's on its way through JSON.
-- +goose StatementBegin
create or replace function authz.bridge() returns trigger language plpgsql security definer set search_path = pg_catalog set extra_float_digits = 1 as $$
declare
  f jsonb := to_jsonb(new);
begin
  if current_setting('session_replication_role') = 'replica'
     and exists (select from pg_subscription_rel s where s.srrelid = 'authz.revocations'::regclass) then
    return null;  -- the row that the bridge made at the other server comes as well, and would meet this one
  end if;
  if coalesce(f->>'jti', '') <> '' then
    perform authz.revoke(array[1]::smallint[], array[tg_argv[0]], array[f->>'jti'], array[null]::timestamptz[],
      array[authz.bridge_time(f->>'expires_at')], array[left(coalesce(f->>'user_id', ''), 200)], array['bridge: ' || tg_table_name]);
  end if;
  return null;
end $$;
-- +goose StatementEnd

-- The bridge also works for rows that arrive by logical replication. Only the table's owner may say so.
-- +goose StatementBegin
create function authz.bridge_always(tbl regclass) returns void language plpgsql set search_path = pg_catalog as $$
begin
  execute format('alter table %s enable always trigger authz_bridge', tbl);
exception when insufficient_privilege then
  raise warning 'rows of % that arrive by logical replication are not bridged: %', tbl, sqlerrm
    using hint = 'Install the bridge as the owner of the table.';
end $$;
-- +goose StatementEnd
revoke all on function authz.bridge_always from public;

-- As before, and for replicated rows.
-- +goose StatementBegin
create or replace function authz.install_bridge(tbl text, issuer text) returns bigint language plpgsql set search_path = pg_catalog set extra_float_digits = 1 as $$
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
  perform authz.bridge_always(t);
  execute format($q$
    with r as (select distinct on (f->>'jti') f from (select to_jsonb(x) as f from %s x) s where coalesce(f->>'jti', '') <> '' order by f->>'jti'),
    a as (select array_agg(1::smallint) k, array_agg(%L::text) i, array_agg(f->>'jti') v, array_agg(null::timestamptz) nb,
                 array_agg(authz.bridge_time(f->>'expires_at')) e, array_agg(left(coalesce(f->>'user_id', ''), 200)) u, array_agg(%L::text) w
            from r where authz.bridge_time(f->>'expires_at') is null or authz.bridge_time(f->>'expires_at') > now())
    select count(d.id) from a, authz.revoke(a.k, a.i, a.v, a.nb, a.e, a.u, a.w) d $q$, t, issuer, 'bridge: ' || t) into n;
  return n;
end $$;
-- +goose StatementEnd

-- The bridges that are there: before anything that sidecars could have to wait for is locked.
select authz.bridge_always(t.tgrelid) from pg_catalog.pg_trigger t
  where t.tgname = 'authz_bridge' and t.tgfoid = 'authz.bridge()'::regprocedure;

-- An epoch that is one more than the last can be given twice: it lies in what is restored. So each is drawn, here as
-- by the program; but a store that is in use keeps its own, and nobody has to reload.
-- +goose StatementBegin
create function authz.draw_epoch() returns bigint language sql volatile
return ('x' || right(replace(gen_random_uuid()::text, '-', ''), 15))::bit(60)::bigint;
-- +goose StatementEnd
-- +goose StatementBegin
create function authz.meta_epoch() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
begin
  new.epoch := authz.draw_epoch();
  return new;
end $$;
-- +goose StatementEnd
create trigger meta_epoch before update on authz.meta
  for each row when (new.epoch = old.epoch + 1) execute function authz.meta_epoch();  -- an earlier program's
update authz.meta set epoch = authz.draw_epoch() where not exists (select from authz.revocations);

-- What limits were before; one row. It is no part of meta because changing that table would lock out every sidecar
-- as long as a transaction that has stored a revocation is open.
--  * max_token_ttl: revocations may have ended, and been deleted, by the shorter life. About a token that was issued
--    until it was raised and lives longer, their absence says nothing.
--  * max_staleness: a sidecar that is cut off from here keeps to the larger one until what it knows is as old.
create table authz.former (
  one           boolean primary key default true check (one),
  max_token_ttl interval,
  raised        timestamptz,  -- when max_token_ttl was raised from that; null: never
  max_staleness interval,
  lowered       timestamptz   -- when max_staleness was lowered from that; null: never
);
insert into authz.former default values;
revoke all on authz.former from public;

-- As before, but a transaction of repeatable read that began before max_token_ttl was raised does not fill in the shorter
-- life: locked, the row of the limits is the present one, or the transaction is to be repeated (40001).
-- +goose StatementBegin
create or replace function authz.revocation_stamp() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
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
        if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
          perform from authz.meta for share;
        end if;
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

-- What sidecars may still keep to; null: nothing else than max_staleness. A commit may take its time to be seen.
-- +goose StatementBegin
create function authz.former_staleness(f authz.former) returns interval language sql stable
begin atomic
  select f.max_staleness where clock_timestamp() < f.lowered + f.max_staleness + interval '1 minute';
end;
-- +goose StatementEnd

-- Others know of a limit when it is committed, which may be long after it was written: that is the time that counts.
-- As long as one change matters, the next does not make it forgotten.
-- +goose StatementBegin
create function authz.meta_former() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
begin
  if new.max_token_ttl > old.max_token_ttl then
    update authz.former f set raised = clock_timestamp(),
      max_token_ttl = least(old.max_token_ttl, case when clock_timestamp() < f.raised + old.max_token_ttl + interval '1 hour' then f.max_token_ttl end);
  end if;
  if new.max_staleness < old.max_staleness then
    update authz.former f set lowered = clock_timestamp(), max_staleness = greatest(old.max_staleness, authz.former_staleness(f));
  end if;
  return null;
end $$;
-- +goose StatementEnd
create constraint trigger meta_former after update on authz.meta deferrable initially deferred
  for each row when (new.max_token_ttl > old.max_token_ttl or new.max_staleness < old.max_staleness) execute function authz.meta_former();
revoke all on function authz.draw_epoch, authz.meta_epoch, authz.former_staleness, authz.meta_former from public;

-- As before, and the staleness in seconds that no sidecar exceeds, and which store this is: server, database, epoch,
-- and when max_staleness was lowered, so that those who know of that are told from those who do not.
alter function authz.about() rename to about_before;
-- +goose StatementBegin
create function authz.about(out schema_version int, out schema_compatible int, out max_staleness float8, out max_token_ttl float8, out recovering boolean,
  out fleet_staleness numeric, out identity text)
language sql stable security definer
begin atomic
  select m.schema_version, m.schema_compatible, date_part('epoch', m.max_staleness), date_part('epoch', m.max_token_ttl), pg_is_in_recovery(),
      extract(epoch from greatest(m.max_staleness, authz.former_staleness(f))),
      concat_ws('/', (select c.system_identifier from pg_control_system() c), (select d.oid from pg_database d where d.datname = current_database()),
        m.epoch, (extract(epoch from f.lowered) * 1000000)::bigint)
    from authz.meta m, authz.former f;
end;
-- +goose StatementEnd
revoke all on function authz.about from public;
-- +goose StatementBegin
do $$
declare r text;
begin
  for r in select case when a.grantee = 0 then 'public' else a.grantee::regrole::text end || case when a.is_grantable then ' with grant option' else '' end
             from pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a where p.oid = 'authz.about_before()'::regprocedure and a.grantee <> p.proowner loop
    execute format('grant execute on function authz.about to %s', r);
  end loop;
  begin
    drop function authz.about_before();
  exception when dependent_objects_still_exist then
    raise warning 'authz.about_before() stays for what somebody has built on authz.about(); nothing else needs it';
  end;
end $$;
-- +goose StatementEnd

-- As before, and who sends a third word is told behind max_token_ttl when it was raised and what it was before, both in
-- seconds, 0: never.
-- +goose StatementBegin
create or replace function authz.lookup(keys bytea[], nonce text, out echo text, out recovering boolean, out fresh boolean, out level bigint)
language sql stable security definer set lock_timeout = '150ms'
begin atomic
  select (select concat_ws(' ', nonce,
              case when split_part(nonce, ' ', 2) <> '' then floor(extract(epoch from clock_timestamp())) end,
              case when split_part(nonce, ' ', 2) <> '' then floor(extract(epoch from m.max_token_ttl)) end,
              case when split_part(nonce, ' ', 3) <> '' then coalesce(ceil(extract(epoch from f.raised)), 0) end,
              case when split_part(nonce, ' ', 3) <> '' then coalesce(floor(extract(epoch from f.max_token_ttl)), 0) end)
            from authz.meta m, authz.former f),
      pg_is_in_recovery(), now() = statement_timestamp(),
      coalesce(max(case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end), 0)
    from authz.revocations r where r.key = any (keys)
      and r.expires_at > least(now(), to_timestamp(nullif(split_part(nonce, ' ', 2), '')::float8)) - interval '5 minutes';
end;
-- +goose StatementEnd

-- As before, and who sends a second word with the nonce is told the same two facts behind it.
-- +goose StatementBegin
create or replace function authz.changes(since bigint, open bigint[], nonce text) returns setof authz.change
language sql stable security definer
begin atomic
  select null::bytea, null::bigint, null::bigint, null::bigint,
      array[concat_ws(' ', nonce,
              case when split_part(nonce, ' ', 2) <> '' then coalesce(ceil(extract(epoch from f.raised)), 0) end,
              case when split_part(nonce, ' ', 2) <> '' then coalesce(floor(extract(epoch from f.max_token_ttl)), 0) end),
            m.schema_version::text, m.schema_compatible::text,
            (select c.system_identifier::text from pg_control_system() c),
            case when pg_is_in_recovery() then '' else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end,
            m.epoch::text,
            pg_is_in_recovery()::text,
            (now() = statement_timestamp())::text,  -- a simple query outside a transaction
            extract(epoch from clock_timestamp())::text,  -- unlike date_part, in digits that no setting rounds
            extract(epoch from m.max_staleness)::text,
            extract(epoch from m.max_token_ttl)::text,
            pg_snapshot_xmin(pg_current_snapshot())::text,
            pg_snapshot_xmax(pg_current_snapshot())::text]
      || array(select x::text from pg_snapshot_xip(pg_current_snapshot()) x)
    from authz.meta m, authz.former f
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

update authz.meta set schema_version = 3;
