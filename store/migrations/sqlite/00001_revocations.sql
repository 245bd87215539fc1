-- +goose Up
create table meta (                         -- one row
  one                integer primary key default 1 check (one = 1),
  schema_version     integer not null,
  file_id            text    not null,      -- this file's own identity, random
  epoch              integer not null,      -- random; when it changes, every sidecar reads everything again
  max_staleness      integer not null check (max_staleness > 0),  -- microseconds, as all times here
  max_token_ttl      integer not null check (max_token_ttl between 1 and 3153600000000000),  -- at most 100 years
  previous_token_ttl integer,               -- max_token_ttl until raised_at; null: it was never raised
  raised_at          integer,
  seq                integer not null default 0,  -- the last change; doubles as the transaction id of the feed
  check ((previous_token_ttl is null) = (raised_at is null))
) strict;
insert into meta (schema_version, file_id, epoch, max_staleness, max_token_ttl)
  values (1, lower(hex(randomblob(16))), random() & 4611686018427387903, 30000000, 86400000000);

-- Why each limit changes as it does is said at authz.meta_stamp in the PostgreSQL schema.
-- +goose StatementBegin
create trigger meta_lowered before update of max_staleness on meta when new.max_staleness < old.max_staleness begin
  select raise(abort, 'max_staleness cannot be lowered: set revocation.max_staleness in the configuration of each sidecar instead');
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger meta_ttl_lowered before update of max_token_ttl on meta when new.max_token_ttl < old.max_token_ttl begin
  select raise(abort, 'max_token_ttl cannot be lowered: set revocation.max_token_ttl in the configuration of each sidecar instead');
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger meta_raised after update of max_token_ttl on meta when new.max_token_ttl > old.max_token_ttl begin
  update meta set
      previous_token_ttl = case when old.raised_at + old.max_token_ttl + 3600000000 > cast(unixepoch('subsec') * 1000000 as integer)
                                then min(old.max_token_ttl, old.previous_token_ttl) else old.max_token_ttl end,
      raised_at = cast(unixepoch('subsec') * 1000000 as integer);
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger meta_changed after update of max_staleness, max_token_ttl on meta
  when new.max_staleness <> old.max_staleness or new.max_token_ttl <> old.max_token_ttl begin
  update meta set epoch = random() & 4611686018427387903;
end;
-- +goose StatementEnd

-- The constraints are said to be what they are at the same table in the PostgreSQL schema.
create table revocations (
  id         integer primary key autoincrement,
  kind       integer not null
    constraint "kind must be one of 1 to 10, which docs/store.md lists" check (kind between 1 and 10),
  iss        text    not null
    constraint "iss must have 1 to 1024 bytes and no NUL, and none for kind 10"
      check (length(cast(iss as blob)) <= 1024 and instr(iss, char(0)) = 0 and (iss = '') = (kind = 10)),
  value      text    not null default ''
    constraint "value must be empty for kinds 5 and 10, and only there" check ((value = '') = (kind in (5, 10)))
    constraint "value must have at most 1024 bytes and no NUL" check (length(cast(value as blob)) <= 1024 and instr(value, char(0)) = 0)
    constraint "value of kind 6 must be the lower-case hex of a SHA-256"
      check (kind <> 6 or length(cast(value as blob)) = 64 and value not glob '*[^0-9a-f]*')
    constraint "value of kind 9 must be a claim's name, = and its value" check (kind <> 9 or instr(value, '=') between 2 and length(value) - 1),
  not_before integer                      -- null: every matching token
    constraint "not_before must lie between 1970 and 9999" check (not_before between 0 and 253402300799000000),
  expires_at integer,                     -- its own expiry; null: max_token_ttl after ttl_from
  ttl_from   integer check (ttl_from <= 253402300799000000),    -- when it was last requested without an expiry
  revoked_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer)),
  actor      text    not null default ''
    constraint "actor must have no NUL" check (instr(actor, char(0)) = 0),
  reason     text    not null default ''
    constraint "reason must have at most 1024 bytes and no NUL" check (length(cast(reason as blob)) <= 1024 and instr(reason, char(0)) = 0),
  key        blob    not null check (length(key) = 16),
  xid        integer not null default 0,  -- stamped
  check (expires_at is not null or ttl_from is not null)
) strict;
create unique index revocations_once on revocations (key, coalesce(not_before, 9223372036854775807));
create index revocations_xid      on revocations (xid);
create index revocations_value    on revocations (value);  -- and id, which each index ends with
create index revocations_expires  on revocations (expires_at) where ttl_from is null;
create index revocations_ttl_from on revocations (ttl_from) where ttl_from is not null;

-- A row of the program names an xid: the program's clock has judged its expiry.
-- +goose StatementBegin
create trigger revocation_ahead before insert on revocations
  when new.xid = 0 and new.not_before > cast(unixepoch('subsec') * 1000000 as integer) + 86400000000
begin
  select raise(abort, 'not_before lies more than a day ahead: until then every new token would be refused');
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger revocation_expired before insert on revocations
  when new.xid = 0 and new.expires_at <= cast(unixepoch('subsec') * 1000000 as integer)
begin
  select raise(abort, 'expires_at has passed: nothing is left to revoke');
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger revocation_stamp after insert on revocations begin
  update meta set seq = seq + 1;
  update revocations set xid = (select seq from meta) where id = new.id;
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger revocation_restamp after update of expires_at, ttl_from on revocations begin
  update meta set seq = seq + 1;
  update revocations set xid = (select seq from meta) where id = new.id;
end;
-- +goose StatementEnd

-- +goose StatementBegin
create trigger revocation_fixed before update on revocations
  when new.kind <> old.kind or new.iss <> old.iss or new.value <> old.value or new.revoked_at <> old.revoked_at
    or new.not_before is not old.not_before or new.key <> old.key
    or (old.expires_at is not null and (new.expires_at is null or new.expires_at < old.expires_at))
    or (old.ttl_from is not null and (new.ttl_from is null or new.ttl_from < old.ttl_from))
begin
  select raise(abort, 'a revocation cannot be changed, only its expiry moved later');
end;
-- +goose StatementEnd

-- +goose StatementBegin
create trigger revocation_kept before delete on revocations
  when max(coalesce(old.expires_at, 0), coalesce(old.ttl_from + (select max_token_ttl from meta), 0)) > cast(unixepoch('subsec') * 1000000 as integer)
begin
  select raise(abort, 'a live revocation cannot be deleted: it ends when it expires');
end;
-- +goose StatementEnd
