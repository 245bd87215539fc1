-- +goose Up

-- Names below are resolved here and not in a schema that the session chose.
select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- +goose StatementBegin
do $$ begin
  if current_setting('server_version_num')::int < 140000 then
    raise exception 'PostgreSQL 14 or newer is needed, this is %', current_setting('server_version');
  end if;
end $$;
-- +goose StatementEnd

-- Random, because a number that depends on the last one is given twice when one backup is restored twice.
-- +goose StatementBegin
create function authz.draw_epoch() returns bigint language sql volatile
return ('x' || right(replace(gen_random_uuid()::text, '-', ''), 15))::bit(60)::bigint;
-- +goose StatementEnd

-- Facts for the whole fleet; one row.
create table authz.meta (
  one                boolean  primary key default true check (one),
  schema_version     int      not null,
  epoch              bigint   not null default authz.draw_epoch(),  -- when it changes, every sidecar reads everything again
  max_staleness      interval not null default '30 seconds' check (max_staleness > '0'),
  max_token_ttl      interval not null default '24 hours'   check (max_token_ttl > '0' and max_token_ttl <= '876000 hours'),
  previous_token_ttl interval,     -- max_token_ttl until raised_at; null: it was never raised
  raised_at          timestamptz,
  check ((previous_token_ttl is null) = (raised_at is null))
);
insert into authz.meta (schema_version) values (1);

-- max_staleness only rises. A sidecar that has lost its connection keeps to the value it read last, so after a lower
-- one, receipts would promise too much. (authz.revoke orders a rise after every receipt that does not know it.)
--
-- max_token_ttl only rises, too: a revocation without its own expiry would end before the time its receipt named.
--
-- A higher max_token_ttl revives revocations that had expired by the lower one, but not those that have been deleted:
-- previous_token_ttl and raised_at tell for which tokens the absence of a revocation still proves nothing. Two raises
-- count as one from the lower value while tokens issued before the first may live. raised_at is the time of the
-- statement. Until its commit others delete by the lower limit, but only what is an hour older than that.
--
-- Either change draws a new epoch: followers read every expiry again, and no cached answer outlives the old bound.
-- +goose StatementBegin
create function authz.meta_stamp() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if new.max_staleness < old.max_staleness then
    raise exception 'max_staleness cannot be lowered: a sidecar that has lost its connection still keeps to the higher value'
      using errcode = 'check_violation', hint = 'Set revocation.max_staleness in the configuration of each sidecar instead.';
  end if;
  if new.max_token_ttl < old.max_token_ttl then
    raise exception 'max_token_ttl cannot be lowered: stored revocations would end before their tokens'
      using errcode = 'check_violation', hint = 'Set revocation.max_token_ttl in the configuration of each sidecar instead.';
  end if;
  if (new.max_staleness, new.max_token_ttl) is not distinct from (old.max_staleness, old.max_token_ttl) then
    return new;
  end if;
  -- Seconds only: adding days to a time would depend on the session's time zone.
  new.max_staleness := make_interval(secs => extract(epoch from new.max_staleness)::float8);
  new.max_token_ttl := make_interval(secs => extract(epoch from new.max_token_ttl)::float8);
  if new.max_token_ttl > old.max_token_ttl then
    new.previous_token_ttl := least(old.max_token_ttl,
      case when clock_timestamp() < old.raised_at + old.max_token_ttl + interval '1 hour' then old.previous_token_ttl end);
    new.raised_at := clock_timestamp();
  end if;
  new.epoch := authz.draw_epoch();
  return new;
end $$;
-- +goose StatementEnd
create trigger meta_stamp before update on authz.meta for each row execute function authz.meta_stamp();

-- What matches no token is refused: these are the rules of Revocation.Normalize in Go, and their names are what a writer
-- is told. (Normalize also refuses selectors that look like tokens. They match nothing either, but a claim may be any text.)
create table authz.revocations (
  id         bigint      generated always as identity primary key,  -- for people; never a watermark
  kind       smallint    not null
    constraint "kind must be one of 1 to 10, which docs/store.md lists" check (kind between 1 and 10),
  iss        text        not null
    constraint "iss must have 1 to 1024 bytes, and none for kind 10" check (octet_length(convert_to(iss, 'UTF8')) <= 1024 and (iss = '') = (kind = 10)),
  value      text        not null default ''
    constraint "value must be empty for kinds 5 and 10, and only there" check ((value = '') = (kind in (5, 10)))
    constraint "value must have at most 1024 bytes" check (octet_length(convert_to(value, 'UTF8')) <= 1024)
    constraint "value of kind 6 must be the lower-case hex of a SHA-256" check (kind <> 6 or value ~ '^[0-9a-f]{64}$')
    constraint "value of kind 9 must be a claim's name, = and its value" check (kind <> 9 or strpos(value, '=') between 2 and length(value) - 1),
  -- Times end with the year 9999 (authz.LastSecond), so that adding max_token_ttl to them cannot overflow: a row whose
  -- expiry cannot be computed would keep every sidecar from reading the others.
  not_before timestamptz                                            -- null: every matching token
    constraint "not_before must lie between 1970 and 9999"
      check (isfinite(not_before) and not_before between '1970-01-01 00:00:00+00' and '9999-12-31 23:59:59+00'),
  expires_at timestamptz check (isfinite(expires_at)),              -- its own expiry; null: max_token_ttl after ttl_from
  ttl_from   timestamptz check (isfinite(ttl_from) and ttl_from <= '9999-12-31 23:59:59+00'), -- last request without an expiry; stamped
  revoked_at timestamptz not null default now(),
  actor      text        not null default session_user,             -- who requested it, as the writer states
  login      name        not null default session_user,             -- the role that wrote it; stamped
  reason     text        not null default ''
    constraint "reason must have at most 1024 bytes" check (octet_length(convert_to(reason, 'UTF8')) <= 1024),
  key        bytea       not null check (length(key) = 16),         -- what enforcement compares; stamped
  xid        bigint      not null,                                  -- transaction of the last change; stamped
  check (expires_at is not null or ttl_from is not null)
);
-- One index makes writing idempotent and answers point lookups.
create unique index revocations_once     on authz.revocations (key, coalesce(not_before, 'infinity'::timestamptz));
create index        revocations_xid      on authz.revocations (xid);
create index        revocations_value    on authz.revocations (value collate "C", id);  -- for people, who look for a value, or for its beginning
-- For deleting; each row is in one of them.
create index        revocations_expires  on authz.revocations (expires_at) where ttl_from is null;
create index        revocations_ttl_from on authz.revocations (ttl_from) where ttl_from is not null;

-- When a revocation ends under the limit in force: the later of its own expiry and the limit's, and no later than
-- authz.LastSecond in Go.
-- +goose StatementBegin
create function authz.expiry(expires_at timestamptz, ttl_from timestamptz, max_token_ttl interval) returns timestamptz
language sql stable parallel safe
return least(greatest(expires_at, ttl_from + max_token_ttl), '9999-12-31 23:59:59+00'::timestamptz);
-- +goose StatementEnd

-- The same value as authz.RevocationKey in Go.
-- +goose StatementBegin
create function authz.revocation_key(kind smallint, iss text, value text) returns bytea
language sql immutable strict parallel safe
return substr(sha256(convert_to(kind::text || ':' || octet_length(convert_to(iss, 'UTF8'))::text || ':' || iss || ':' || value, 'UTF8')), 1, 16);
-- +goose StatementEnd

-- +goose StatementBegin
create function authz.revocation_stamp() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  at timestamptz := clock_timestamp();  -- not now(): in a long transaction that lies in the past
begin
  if tg_op = 'UPDATE' then
    if (new.id, new.kind, new.iss, new.value, new.not_before, new.revoked_at, new.actor, new.login, new.reason)
         is distinct from (old.id, old.kind, old.iss, old.value, old.not_before, old.revoked_at, old.actor, old.login, old.reason)
       or new.expires_at < old.expires_at or new.expires_at is null and old.expires_at is not null
       or new.ttl_from < old.ttl_from or new.ttl_from is null and old.ttl_from is not null then
      raise exception 'a revocation cannot be changed, only its expiry moved later'
        using errcode = 'check_violation', hint = 'Insert a stricter one beside it; the strictest wins.';
    end if;
  else
    new.login := session_user;
    if new.not_before = 'infinity' then
      new.not_before := null;
    end if;
    -- A row of authz.append names an xid: its caller has compared its expiry with a clock that may be the better one. So do
    -- rows that were stored before, at another server or in a dump.
    if new.xid is null and new.expires_at <= at then
      raise exception 'expires_at has passed: nothing is left to revoke' using errcode = 'check_violation';
    end if;
    -- As above, and for the same reason.
    if new.xid is null and new.not_before > at + interval '1 day' then
      raise exception 'not_before lies more than a day ahead: until then every new token would be refused' using errcode = 'check_violation',
        hint = 'No revocation can be undone.';
    end if;
    if new.not_before is null and new.kind in (2, 5, 7, 8, 9, 10) then
      new.not_before := at;
    end if;
    if new.expires_at is null and new.kind = 4 and new.not_before is null then
      -- A withdrawn key can sign tokens of any age while it is published: its revocation never ends by itself.
      new.expires_at := 'infinity';
      new.ttl_from := null;
    elsif new.expires_at is null then
      new.ttl_from := coalesce(new.ttl_from, greatest(at, new.not_before));
    end if;
  end if;
  if new.expires_at > '9999-12-31 23:59:59+00' then
    new.expires_at := '9999-12-31 23:59:59+00';
  end if;
  -- authz.revocation_key spelled out: calling it would make a single insert a fifth slower.
  new.key := substr(sha256(convert_to(new.kind::text || ':' || octet_length(convert_to(new.iss, 'UTF8'))::text || ':' || new.iss || ':' || new.value, 'UTF8')), 1, 16);
  new.xid := pg_current_xact_id()::text::bigint;
  if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);  -- so that the writer sees what revocation_durable will do
  end if;
  return new;
end $$;
-- +goose StatementEnd
create trigger revocation_stamp before insert or update on authz.revocations
  for each row execute function authz.revocation_stamp();
-- Also for rows that arrive by logical replication: their ids are another server's.
alter table authz.revocations enable always trigger revocation_stamp;

-- Others see a row at commit. Were it not durable by then, a crash could take it back and give its transaction id to
-- another row, which a follower that saw the first would never be sent. This runs as the transaction commits, because a
-- writer may lower the setting after his insert. (One who also moves this trigger forward, with "set constraints", has
-- to mean harm.)
-- +goose StatementBegin
create function authz.revocation_durable() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  return null;
end $$;
-- +goose StatementEnd
create constraint trigger revocation_durable after insert or update on authz.revocations deferrable initially deferred
  for each row execute function authz.revocation_durable();
alter table authz.revocations enable always trigger revocation_durable;

-- +goose StatementBegin
create function authz.revocation_keep() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'DELETE' then
    if authz.expiry(old.expires_at, old.ttl_from, (select m.max_token_ttl from authz.meta m)) <= clock_timestamp() then
      return old;
    end if;
  end if;
  raise exception 'a live revocation cannot be deleted: it ends when it expires'
    using errcode = 'check_violation', hint = 'Sidecars keep what they have received until it expires.';
end $$;
-- +goose StatementEnd
create trigger revocation_keep before delete on authz.revocations
  for each row execute function authz.revocation_keep();
create trigger revocation_keep_all before truncate on authz.revocations
  for each statement execute function authz.revocation_keep();

-- What changed: rows with xid > since, and rows of the transactions that were open at the caller's last snapshot.
-- The first row describes the snapshot in which all rows are read, the limits that give them their expiry included.
--  * STABLE: everything inside sees the calling statement's one snapshot.
--  * One SQL statement: called in a select list its rows are streamed, not spooled.
--  * The upper bound looks idle: it makes the planner expect few rows and use the index, whatever "since" is.
--  * authz.meta in sub-selects of its own: joined, its unknown size would multiply the expected cost and start JIT.
--  * Its body is bound when created, so a caller's search_path cannot reach into it.
--  * At a logical subscriber nothing is proven, whether its subscription is enabled or not: others are committed at the
--    publisher first. In the same snapshot as the rows, so a subscription that was just created counts.
create type authz.change as (key bytea, not_before bigint, expires bigint, xid bigint, snapshot text[]);
-- +goose StatementBegin
create function authz.changes(since bigint, open bigint[], nonce text) returns setof authz.change
language sql stable security definer
begin atomic
  select null::bytea, null::bigint, null::bigint, null::bigint,
      array[m.schema_version::text,
            nonce,
            (pg_control_system()).system_identifier::text,
            case when pg_is_in_recovery() then '' else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end,
            m.epoch::text,
            (pg_is_in_recovery() or
              exists (select from pg_subscription_rel s where s.srrelid in ('authz.revocations'::regclass, 'authz.meta'::regclass)))::text,
            (now() = statement_timestamp())::text,  -- a simple query outside a transaction
            extract(epoch from clock_timestamp())::text,  -- unlike date_part, in digits that no setting rounds
            extract(epoch from m.max_staleness)::text,
            extract(epoch from m.max_token_ttl)::text,
            coalesce(extract(epoch from m.previous_token_ttl), 0)::text,
            coalesce(ceil(extract(epoch from m.raised_at)), 0)::text,
            pg_snapshot_xmax(pg_current_snapshot())::text]
      || array(select x::text from pg_snapshot_xip(pg_current_snapshot()) x)
    from authz.meta m
  union all
  select r.key,
      case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end,
      ceil(date_part('epoch', authz.expiry(r.expires_at, r.ttl_from, (select m.max_token_ttl from authz.meta m))))::bigint, r.xid, null::text[]
    from authz.revocations r where r.xid > since and r.xid <= 9223372036854775807
  union all
  select r.key,
      case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end,
      ceil(date_part('epoch', authz.expiry(r.expires_at, r.ttl_from, (select m.max_token_ttl from authz.meta m))))::bigint, r.xid, null::text[]
    from authz.revocations r where r.xid = any (open) and r.xid <= since;
end;
-- +goose StatementEnd

-- Point lookup. One line of text: version, nonce, follows, fresh, not_before, clock, epoch, max_token_ttl,
-- previous_token_ttl, raised_at. not_before is the strictest (Unix seconds, rounded up; the largest bigint: always; 0:
-- none); clock and limits are in seconds. An expired revocation counts for five more minutes (authz.ExpiryGrace), by the
-- clock here and by the caller's (Unix seconds): one of them that was set forward hides nothing.
--  * Nearly every answer is "none", to a caller that knows the limits of this epoch: nonce and clock say it.
--  * plpgsql, because a session then plans it once and not at every call. The generic plan is an index scan, so cheap
--    that JIT never starts.
-- +goose StatementBegin
create function authz.lookup(keys bytea[], nonce text, caller_clock bigint, known_epoch bigint) returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '150ms' set plan_cache_mode = force_generic_plan as $$
begin
  if now() = statement_timestamp() and not pg_is_in_recovery()
     and exists (select from authz.meta m where m.schema_version = 1 and m.epoch = known_epoch
       and not exists (select from authz.revocations r where r.key = any (keys))
       and not exists (select from pg_subscription_rel s where s.srrelid in ('authz.revocations'::regclass, 'authz.meta'::regclass))) then
    return concat_ws(' ', nonce, floor(date_part('epoch', clock_timestamp()))::bigint);
  end if;
  return (select concat_ws(' ', m.schema_version, nonce,
      pg_is_in_recovery() or exists (select from pg_subscription_rel s where s.srrelid in ('authz.revocations'::regclass, 'authz.meta'::regclass)),
      now() = statement_timestamp(),
      coalesce((select max(case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end)
        from authz.revocations r where r.key = any (keys)
         and authz.expiry(r.expires_at, r.ttl_from, m.max_token_ttl) > least(now(), to_timestamp(caller_clock)) - interval '5 minutes'), 0),
      floor(date_part('epoch', clock_timestamp()))::bigint, m.epoch,
      floor(date_part('epoch', m.max_token_ttl))::bigint,
      coalesce(floor(date_part('epoch', m.previous_token_ttl)), 0)::bigint,
      coalesce(ceil(date_part('epoch', m.raised_at)), 0)::bigint) from authz.meta m);
end $$;
-- +goose StatementEnd

-- Stores revocations, all or none; equal ones once, with the later expiry. by_ttl: was also requested without an expiry.
-- Internal: it asks for no rights.
-- +goose StatementBegin
create function authz.append(kinds smallint[], issuers text[], vals text[], not_befores timestamptz[], expiries timestamptz[], actors text[], reasons text[],
  caller_clock timestamptz, by_ttl boolean[]) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into authz.revocations as r (kind, iss, value, not_before, expires_at, ttl_from, actor, reason, xid)
    select u.kind, u.iss, u.val, u.nb, u.exp,
        -- The caller's clock counts too: a revocation requested while the one here is behind has to outlast its correction.
        case when u.exp is null or u.ttl then greatest(clock_timestamp(), caller_clock, nullif(u.nb, 'infinity')) end,
        coalesce(nullif(u.act, ''), session_user), u.why, 0
      from unnest(kinds, issuers, vals, not_befores, expiries, actors, reasons, by_ttl) as u (kind, iss, val, nb, exp, act, why, ttl)
    on conflict (key, (coalesce(not_before, 'infinity'::timestamptz)))
      do update set expires_at = greatest(r.expires_at, excluded.expires_at), ttl_from = greatest(r.ttl_from, excluded.ttl_from)
      where (greatest(r.expires_at, excluded.expires_at), greatest(r.ttl_from, excluded.ttl_from)) is distinct from (r.expires_at, r.ttl_from);
end $$;
-- +goose StatementEnd

-- Appends and returns the rows as they are stored, with the expiry under the limit in force, and max_staleness: no
-- sidecar allows a matching token on a request that arrives later than that after this transaction's commit.
--
-- Why none does: a sidecar that allows has not read these rows, so the limit that it keeps to was read in a snapshot
-- from before the commit. max_staleness only rises, and the lock makes a rise wait for this transaction's end: in every
-- such snapshot it was no more than the value returned.
-- +goose StatementBegin
create function authz.revoke(kinds smallint[], issuers text[], vals text[], not_befores timestamptz[], expiries timestamptz[], actors text[], reasons text[],
  caller_clock timestamptz default null, by_ttl boolean[] default null)
returns table (key bytea, id bigint, not_before timestamptz, expires_at timestamptz, revoked_at timestamptz, actor text, reason text, max_staleness interval)
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
#variable_conflict use_column
declare
  limits authz.meta;
begin
  if exists (select from pg_subscription_rel s where s.srrelid in ('authz.revocations'::regclass, 'authz.meta'::regclass)) then
    raise exception 'revocations arrive here by logical replication from another server'
      using errcode = 'object_not_in_prerequisite_state', hint = 'Connect to that server, or drop the subscription if this one takes its place.';
  end if;
  select m.* into strict limits from authz.meta m for share;
  perform authz.append(kinds, issuers, vals, not_befores, expiries, actors, reasons, caller_clock, by_ttl);
  -- A statement of its own: it also sees rows that others committed while the first was waiting for them.
  return query
    select r.key, r.id, r.not_before, authz.expiry(r.expires_at, r.ttl_from, limits.max_token_ttl), r.revoked_at, r.actor, r.reason, limits.max_staleness
      from unnest(kinds, issuers, vals, not_befores) as u (kind, iss, val, nb)
      join authz.revocations r on r.key = authz.revocation_key(u.kind, u.iss, u.val)
       and coalesce(r.not_before, 'infinity') = coalesce(u.nb, 'infinity');
end $$;
-- +goose StatementEnd

-- Deletes a batch of revocations that expired more than an hour ago (authz.ExpiredKept), by the clock here and by the
-- caller's: one of them that was set forward deletes nothing.
-- +goose StatementBegin
create function authz.gc(caller_clock timestamptz default now(), batch int default 5000) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
  cut timestamptz := least(now(), caller_clock) - interval '1 hour';
  n bigint;
  total bigint;
begin
  delete from authz.revocations where id in (
    select r.id from authz.revocations r where r.ttl_from is null and r.expires_at < cut
      order by r.expires_at limit batch for update skip locked);
  get diagnostics total = row_count;
  delete from authz.revocations where id in (
    select r.id from authz.revocations r
      where r.ttl_from < cut - (select m.max_token_ttl from authz.meta m) and (r.expires_at is null or r.expires_at < cut)
      order by r.ttl_from limit batch for update skip locked);
  get diagnostics n = row_count;
  return total + n;
end $$;
-- +goose StatementEnd

-- The fleet's limits, and the incarnation of the store: server, database and epoch.
-- +goose StatementBegin
create function authz.about(out schema_version int, out max_staleness interval, out max_token_ttl interval, out follows boolean, out incarnation text)
language sql stable security definer
begin atomic
  select m.schema_version, m.max_staleness, m.max_token_ttl, pg_is_in_recovery() or exists (select from pg_subscription_rel s where s.srrelid in ('authz.revocations'::regclass, 'authz.meta'::regclass)),
      concat_ws('/', (pg_control_system()).system_identifier, (select d.oid from pg_database d where d.datname = current_database()), m.epoch)
    from authz.meta m;
end;
-- +goose StatementEnd

-- The time in a bridged table's expires_at; null, which means the default expiry, where it cannot be read. Numbers are
-- Unix seconds or milliseconds from 2001 on. Other text that begins with a digit, or is 'infinity', is read as a time:
-- one without a zone as UTC and as the session's, and the later one counts.
-- +goose StatementBegin
create function authz.bridge_time(t text) returns timestamptz language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  n numeric;
begin
  t := trim(both e' \t\r\n' from t);
  if t ~ '^[0-9]{9,30}([.][0-9]*)?$' then
    n := t::numeric;
    return case when n between 1e9 and 1e11 then to_timestamp(n::float8)
                when n between 1e12 and 1e14 then to_timestamp((n / 1000)::float8) end;
  elsif t ~ '^[0-9]{1,7}([.][0-9]*)?$' or t !~* '^([0-9]|infinity$)' then
    return null;  -- a span of time, or a word such as "now", is no time at which a token ends
  elsif t ~ '([zZ]|[+-][0-9:]+|infinity)$' and t !~ '^[0-9]+-[0-9]+-[0-9]+$' then
    return t::timestamptz;
  end if;
  return greatest(t::timestamptz, (t::timestamp) at time zone 'UTC');
exception when others then
  return null;  -- whatever expires_at holds, the writer's insert goes on
end $$;
-- +goose StatementEnd

-- Bridges: other writers' tables of revoked tokens, and the issuer of their tokens. Only the owner writes here.
create table authz.bridges (
  tbl regclass primary key,
  iss text     not null check (iss <> '' and octet_length(convert_to(iss, 'UTF8')) <= 1024)
);

-- A bridge is two triggers, which fire one after the other for each row. The owner of the table decides what its
-- columns are, so turning the row into text may run that owner's code (a cast, say): authz.bridge_read does it, with
-- the rights of the writer, and leaves text in a setting. authz.bridge_write has the rights to store a revocation,
-- and reads nothing but that text.
--
-- Nobody can make it store for another issuer: the server, and not the caller, tells a trigger for which table it
-- fires, and the issuer is the one registered for that table. Whoever may insert there can invent the text, as he can
-- insert any row. Writers need no rights here.
-- +goose StatementBegin
create function authz.bridge_read() returns trigger language plpgsql set search_path = pg_catalog, pg_temp set extra_float_digits = 1 as $$
declare
  f jsonb := to_jsonb(new);  -- makes every column but jti optional
begin
  perform set_config('authz.bridged_row', jsonb_build_array(tg_relid::text, f->>'jti', f->>'expires_at', f->>'user_id')::text, true);
  return null;
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
create function authz.bridge_write() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
  f jsonb := nullif(current_setting('authz.bridged_row', true), '')::jsonb;
  issuer text;
begin
  if f->>0 is distinct from tg_relid::text then
    raise exception 'table % is bridged to authz.revocations, but the trigger authz_bridge_read did not fire for this row', tg_relid::regclass
      using hint = 'Enable it, or have the owner of authz call authz.install_bridge again.';
  end if;
  perform set_config('authz.bridged_row', '', true);
  if current_setting('session_replication_role') = 'replica'
     and exists (select from pg_subscription_rel s where s.srrelid = 'authz.revocations'::regclass) then
    return null;  -- the row that the bridge made at the other server arrives as well, and would meet this one
  end if;
  for issuer in select b.iss from authz.bridges b where b.tbl = tg_relid or b.tbl in (select pg_partition_ancestors(tg_relid)) loop
    if octet_length(convert_to(f->>1, 'UTF8')) between 1 and 1024 then  -- no accepted token has another jti
      perform authz.append(array[1]::smallint[], array[issuer], array[f->>1], array[null]::timestamptz[],
        array[authz.bridge_time(f->>2)], array[left(coalesce(f->>3, ''), 200)], array['bridge: ' || tg_table_name], null, null);
    end if;
  end loop;
  if not found then
    raise exception 'table % has the trigger of a bridge but is not registered as one', tg_relid::regclass
      using hint = 'The owner of authz calls authz.install_bridge.';
  end if;
  return null;
end $$;
-- +goose StatementEnd

-- The table of that name, which is an administrator's and is looked up as the session would.
-- +goose StatementBegin
create function authz.bridged_table(tbl text) returns regclass language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  t regclass;
begin
  perform set_config('search_path', s.reset_val, true) from pg_settings s where s.name = 'search_path';
  t := pg_catalog.to_regclass(tbl);
  if t is null then
    raise exception 'table % does not exist', tbl using errcode = 'undefined_table';
  end if;
  return t;
end $$;
-- +goose StatementEnd

-- Installs a bridge. Returns the tables that hold its rows (itself, or its partitions and descendants) and those of
-- the columns jti, expires_at and user_id that they have. It does not read the rows: a query could run code of the
-- table's owner, with the rights of whoever calls this. The program reads them with COPY, which runs none.
-- +goose StatementBegin
create function authz.install_bridge(tbl text, issuer text) returns table (source text, columns text) language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  t regclass := authz.bridged_table(tbl);
  owner text;
begin
  if coalesce(issuer, '') = '' then
    raise exception 'an issuer is needed' using errcode = 'invalid_parameter_value';
  end if;
  select c.relowner::regrole into owner from pg_class c where c.oid = t and c.relkind in ('r', 'p');
  if owner is null then
    raise exception '% is not a table', tbl using errcode = 'wrong_object_type';
  end if;
  if not exists (select from pg_attribute a where a.attrelid = t and a.attname = 'jti' and not a.attisdropped) then
    raise exception 'table % has no column jti', tbl using errcode = 'undefined_column';
  end if;
  delete from authz.bridges b where not exists (select from pg_class c where c.oid = b.tbl);
  insert into authz.bridges as b values (t, issuer) on conflict on constraint bridges_pkey do update set iss = excluded.iss;
  -- The owner of the table creates these triggers again whenever he adds a partition.
  execute format('grant execute on function authz.bridge_read, authz.bridge_write to %s', owner);
  -- Taking the lock of the triggers waits for writers: the rows that they commit are there to be copied afterwards.
  execute format('drop trigger if exists authz_bridge_read on %1$s; drop trigger if exists authz_bridge_write on %1$s', t);
  execute format('create trigger authz_bridge_read after insert or update on %s for each row execute function authz.bridge_read()', t);
  execute format('create trigger authz_bridge_write after insert or update on %s for each row execute function authz.bridge_write()', t);
  begin  -- also for rows that arrive by logical replication
    execute format('alter table %1$s enable always trigger authz_bridge_read, enable always trigger authz_bridge_write', t);
  exception when insufficient_privilege then
    raise warning 'rows of % that arrive by logical replication are not bridged: %', t, sqlerrm
      using hint = 'Install the bridge as the owner of the table.';
  end;
  return query
    with recursive tables (oid) as (
      select t::oid union select i.inhrelid from pg_inherits i join tables on i.inhparent = tables.oid)
    select format('%I.%I', n.nspname, c.relname),
        (select string_agg(a.attname, ', ') from pg_attribute a where a.attrelid = c.oid and a.attname in ('jti', 'expires_at', 'user_id') and not a.attisdropped)
      from tables join pg_class c on c.oid = tables.oid join pg_namespace n on n.oid = c.relnamespace
      where c.relkind <> 'p';
end $$;
-- +goose StatementEnd

-- Ends a bridge. What it has stored stays.
-- +goose StatementBegin
create function authz.remove_bridge(tbl text) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  t regclass := authz.bridged_table(tbl);
begin
  execute format('drop trigger if exists authz_bridge_read on %1$s; drop trigger if exists authz_bridge_write on %1$s', t);
  delete from authz.bridges b where b.tbl = t;
end $$;
-- +goose StatementEnd

-- Stores rows that were in a table before it was bridged; returns the number of those that had not expired.
-- +goose StatementBegin
create function authz.bridge_rows(source text, issuer text, jtis text[], expiries text[], users text[]) returns bigint language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  n bigint;
  v text[]; e timestamptz[]; u text[]; ttl boolean[];
begin
  select count(*), array_agg(r.jti), array_agg(r.expires), array_agg(r.usr), array_agg(r.open) into n, v, e, u, ttl
    from (select s.jti, max(s.expires) as expires, bool_or(s.expires is null) as open, left(coalesce(max(s.usr), ''), 200) as usr
        from (select x.jti, authz.bridge_time(x.expires_at) as expires, x.usr from unnest(jtis, expiries, users) as x (jti, expires_at, usr)) s
        where octet_length(convert_to(s.jti, 'UTF8')) between 1 and 1024
        group by s.jti having bool_or(s.expires is null) or max(s.expires) > clock_timestamp()) r;
  if n > 0 then
    perform authz.append(array_fill(1::smallint, array[n::int]), array_fill(issuer, array[n::int]), v, array_fill(null::timestamptz, array[n::int]), e, u,
      array_fill('bridge: ' || source, array[n::int]), null, ttl);
  end if;
  return n;
end $$;
-- +goose StatementEnd

-- What a follower asks at every sync: the same as authz.changes, for a small part of the cost. One line of text: version,
-- nonce, start of the server, epoch, timeline, follows, fresh, clock, snapshot, facts, rows.
--  * Nearly every answer is "nothing changed, and all is as you know": nonce, clock and snapshot say it. It is given
--    only outside recovery, where a server keeps its timeline as long as it runs.
--  * Facts that last as long as the server runs and the epoch lasts are sent only to a caller that does not name both:
--    the server's identity lies in a file, which costs more to read than all the rest. A failover or a restore shows in
--    the start, the timeline or the epoch.
--  * More than 1000 rows are incomplete: authz.changes streams them all.
--  * plpgsql, because a session then plans it once and not at every call. Order and limit keep the generic plan on the
--    index, and its cost below every threshold of JIT.
-- +goose StatementBegin
create function authz.sync(since bigint, open bigint[], nonce text, known_start bigint, known_timeline text, known_epoch bigint) returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  m authz.meta;
  started bigint := date_part('epoch', pg_postmaster_start_time()) * 1000000;
  facts text := '-';
  late text[];
  line text;
begin
  if started = known_start and open = '{}' and now() = statement_timestamp()
     and (case when pg_is_in_recovery() then false else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) = known_timeline end)
     and exists (select from authz.meta x where x.schema_version = 1 and x.epoch = known_epoch
       and not exists (select from authz.revocations r where r.xid > since and r.xid <= 9223372036854775807)
       and not exists (select from pg_subscription_rel s where s.srrelid in ('authz.revocations'::regclass, 'authz.meta'::regclass))) then
    return concat_ws(' ', nonce, extract(epoch from clock_timestamp()), pg_current_snapshot());
  end if;
  select x.* into strict m from authz.meta x;
  if known_start is distinct from started or known_epoch is distinct from m.epoch then
    facts := concat_ws('/', (select c.system_identifier from pg_control_system() c),
      extract(epoch from m.max_staleness), extract(epoch from m.max_token_ttl),
      coalesce(extract(epoch from m.previous_token_ttl), 0), coalesce(ceil(extract(epoch from m.raised_at)), 0));
  end if;
  if open <> '{}' then
    late := array(select encode(r.key
          || int8send(case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end)
          || int8send(ceil(date_part('epoch', authz.expiry(r.expires_at, r.ttl_from, m.max_token_ttl)))::bigint) || int8send(r.xid), 'hex')
        from authz.revocations r where r.xid = any (open) and r.xid <= since order by r.xid limit 1001);
  end if;
  select concat_ws(' ', m.schema_version, nonce, started, m.epoch,
      case when pg_is_in_recovery() then '-' else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end,
      pg_is_in_recovery() or exists (select from pg_subscription_rel s where s.srrelid in ('authz.revocations'::regclass, 'authz.meta'::regclass)),
      now() = statement_timestamp(), extract(epoch from clock_timestamp()), pg_current_snapshot(), facts,
      late || array(select encode(r.key
          || int8send(case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end)
          || int8send(ceil(date_part('epoch', authz.expiry(r.expires_at, r.ttl_from, m.max_token_ttl)))::bigint) || int8send(r.xid), 'hex')
        from authz.revocations r where r.xid > since and r.xid <= 9223372036854775807 order by r.xid limit 1001)) into line;
  return line;
end $$;
-- +goose StatementEnd

-- Packed snapshots: the image of authz.revocations in one snapshot, with the watermark from which a follower goes on. A
-- full load from it costs the server a twentieth of a load row by row. Only authz.pack writes here.
create table authz.packs (
  id       bigint      generated always as identity primary key,
  system   bigint      not null,  -- the server's identity; with meta.epoch, the life of the store to which the ids belong
  epoch    bigint      not null,
  last     bigint      not null,  -- L: the highest xid among the rows
  open     bigint[]    not null,  -- X: ids below it that were running
  entries  bigint      not null,
  sums     bytea[]     not null,  -- SHA-256 of each chunk
  built_at timestamptz not null default clock_timestamp()
);
create table authz.pack_chunks (
  pack bigint not null,
  sum  bytea  not null,
  data bytea  not null  -- entries of 32 bytes: key, not_before, expires
);
create index pack_chunks_sum on authz.pack_chunks (sum);
alter table authz.pack_chunks alter column data set storage external;  -- hashes do not compress

-- Packs if it is due: there are 10,000 revocations, and the newest pack is of another epoch; or ten minutes old, with a
-- twentieth as many revocations after it; or six hours old. It takes nothing from its caller, so whoever may call it can
-- only have it done. The pack before stays, for loads that have begun.
--
-- One statement reads the rows, the watermark, the limit and the epoch, hence in one snapshot. It reads one 256th of the
-- keys at a time, and holds no more than that in memory.
-- +goose StatementBegin
create function authz.pack() returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' set jit = off set enable_seqscan = off as $$
declare
  server bigint := (select c.system_identifier from pg_control_system() c);
  newest authz.packs;
  pack_id bigint;
begin
  if pg_is_in_recovery() or not exists (select from authz.revocations r offset 9999) or not pg_try_advisory_xact_lock(1634235498, 4) then
    return false;
  end if;
  select p.* into newest from authz.packs p order by p.id desc limit 1;
  if newest.system = server and newest.epoch = (select m.epoch from authz.meta m)
     and (newest.built_at between clock_timestamp() - interval '10 minutes' and clock_timestamp()
       or newest.built_at between clock_timestamp() - interval '6 hours' and clock_timestamp()
         and not exists (select from authz.revocations r where r.xid > newest.last and r.xid <= 9223372036854775807 offset newest.entries / 20)) then
    return false;
  end if;
  pack_id := nextval(pg_get_serial_sequence('authz.packs', 'id'));
  with mark as (
    select m.epoch, coalesce((select max(r.xid) from authz.revocations r where r.xid < pg_snapshot_xmax(pg_current_snapshot())::text::bigint), 0) as last
      from authz.meta m
  ), chunks as (
    insert into authz.pack_chunks (pack, sum, data)
      select pack_id, sha256(c.data), c.data from (
        select (select string_agg(r.key
              || int8send(case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end)
              || int8send(ceil(date_part('epoch', authz.expiry(r.expires_at, r.ttl_from, (select m.max_token_ttl from authz.meta m))))::bigint), ''::bytea)
            from authz.revocations r where r.key >= set_byte('\x00', 0, n) and r.key < case when n = 255 then '\xffffffffffffffffffffffffffffffffff' else set_byte('\x00', 0, n + 1) end) as data
          from generate_series(0, 255) n offset 0) c
        where c.data is not null
      returning sum, length(data) as size
  )
  insert into authz.packs (id, system, epoch, last, open, entries, sums) overriding system value
    select pack_id, server, k.epoch, k.last,
        -- This transaction's own id as well: its caller may yet revoke in it.
        array(select x from (select x::text::bigint from pg_snapshot_xip(pg_current_snapshot()) x union select pg_current_xact_id()::text::bigint) r (x) where x <= k.last),
        (select sum(c.size) / 32 from chunks c), array(select c.sum from chunks c)
      from mark k;
  delete from authz.pack_chunks c where c.pack < coalesce(newest.id, pack_id);
  delete from authz.packs p where p.id < coalesce(newest.id, pack_id);
  return true;
end $$;
-- +goose StatementEnd

-- The newest pack of this store's life, or "-" if there is none, as one line of text: version, nonce, epoch (in the three
-- parts of authz.changes), in recovery, last, entries, open, sums in hex. The timeline is no part of that life: a pack is
-- in the database itself, so a server that has it went through everything it was built from.
-- +goose StatementBegin
create function authz.packed(nonce text) returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  m authz.meta;
  server bigint;
  p authz.packs;
begin
  select x.* into strict m from authz.meta x;
  select c.system_identifier into server from pg_control_system() c;
  select x.* into p from authz.packs x where x.system = server and x.epoch = m.epoch order by x.id desc limit 1;
  return concat_ws(' ', m.schema_version, nonce,
    server || '/' || case when pg_is_in_recovery() then '' else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end || '/' || m.epoch,
    pg_is_in_recovery(), coalesce(p.last::text, '-'), p.entries, p.open::text, array(select encode(s, 'hex') from unnest(p.sums) s)::text);
end $$;
-- +goose StatementEnd

-- A null, and the chunks with these SHA-256 in any order. Also on a standby, which need not be trusted for it.
-- +goose StatementBegin
create function authz.pack_data(wanted bytea[]) returns setof bytea
language sql stable security definer
begin atomic
  select null::bytea union all select c.data from authz.pack_chunks c where c.sum = any (wanted);
end;
-- +goose StatementEnd

-- Takes one of four places for the transaction, which a full load holds while it reads; false: all are taken. Many
-- sidecars that start at once then load in turn, and those who revoke meet four of them at most.
-- +goose StatementBegin
create function authz.admit() returns boolean language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  for place in 0..3 loop
    if pg_try_advisory_xact_lock(1634235498, place) then
      return true;
    end if;
  end loop;
  return false;
end $$;
-- +goose StatementEnd

revoke all on schema authz from public;
revoke all on all tables in schema authz from public;
revoke all on all functions in schema authz from public;

-- The roles and their rights are in postgres_roles.go: every migration applies them.
