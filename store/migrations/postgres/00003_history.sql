-- +goose Up
-- An epoch that is one more than the last can be given twice: it lies in what is restored. So each is drawn, here as
-- by the program; but a store that is in use keeps its own, and nobody has to reload.
update authz.meta set epoch = ('x' || right(replace(gen_random_uuid()::text, '-', ''), 15))::bit(60)::bigint
  where not exists (select from authz.revocations);

-- What max_token_ttl was before it was raised, and until when. Revocations may have ended, and been deleted, by the
-- shorter life: about a token that was issued until then and lives longer, their absence says nothing. As long as one
-- raise matters, another does not make it forgotten.
alter table authz.meta add max_token_ttl_before interval, add max_token_ttl_raised timestamptz;

-- +goose StatementBegin
create function authz.meta_former() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
  if new.max_token_ttl > old.max_token_ttl then
    new.max_token_ttl_before := least(old.max_token_ttl,
      case when clock_timestamp() < old.max_token_ttl_raised + old.max_token_ttl + interval '1 hour' then old.max_token_ttl_before end);
    new.max_token_ttl_raised := clock_timestamp();
  end if;
  return new;
end $$;
-- +goose StatementEnd
create trigger meta_former before update on authz.meta for each row execute function authz.meta_former();

-- Others know of a limit when it is committed, which may be long after it was written: that is the time that counts.
-- +goose StatementBegin
create function authz.meta_since() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
begin
  update authz.meta set max_token_ttl_raised = clock_timestamp();
  return null;
end $$;
-- +goose StatementEnd
create constraint trigger meta_raised after update on authz.meta deferrable initially deferred
  for each row when (new.max_token_ttl > old.max_token_ttl) execute function authz.meta_since();
revoke all on function authz.meta_former, authz.meta_since from public;

-- As before, and who sends a third word is told behind max_token_ttl when it was raised and what it was before, both in
-- seconds, 0: never.
-- +goose StatementBegin
create or replace function authz.lookup(keys bytea[], nonce text, out echo text, out recovering boolean, out fresh boolean, out level bigint)
language sql stable security definer set lock_timeout = '150ms'
begin atomic
  select (select concat_ws(' ', nonce,
              case when split_part(nonce, ' ', 2) <> '' then floor(extract(epoch from clock_timestamp())) end,
              case when split_part(nonce, ' ', 2) <> '' then floor(extract(epoch from m.max_token_ttl)) end,
              case when split_part(nonce, ' ', 3) <> '' then coalesce(ceil(extract(epoch from m.max_token_ttl_raised)), 0) end,
              case when split_part(nonce, ' ', 3) <> '' then coalesce(floor(extract(epoch from m.max_token_ttl_before)), 0) end)
            from authz.meta m),
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
              case when split_part(nonce, ' ', 2) <> '' then coalesce(ceil(extract(epoch from m.max_token_ttl_raised)), 0) end,
              case when split_part(nonce, ' ', 2) <> '' then coalesce(floor(extract(epoch from m.max_token_ttl_before)), 0) end),
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
-- A number must not be rounded by a setting of the writer's on its way through JSON.
alter function authz.bridge() set extra_float_digits = 1;
alter function authz.install_bridge(text, text) set extra_float_digits = 1;

update authz.meta set schema_version = 3;
