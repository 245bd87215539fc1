-- +goose Up
create table meta (                       -- one row
  one               integer primary key default 1 check (one = 1),
  schema_version    integer not null,     -- of this schema
  schema_compatible integer not null,     -- the oldest code that can still use it
  file_id           text    not null,     -- this file's own identity, random
  epoch             integer not null default 1,
  max_staleness     integer not null,     -- microseconds, as all times here
  max_token_ttl     integer not null,
  seq               integer not null default 0  -- the last change; doubles as the transaction id of the feed
);
insert into meta (schema_version, schema_compatible, file_id, max_staleness, max_token_ttl)
  values (1, 1, lower(hex(randomblob(16))), 30000000, 86400000000);

create table revocations (
  id         integer primary key autoincrement,
  kind       integer not null check (kind between 1 and 6),
  iss        text    not null check (iss <> ''),
  value      text    not null default '' check ((value = '') = (kind = 5)),
  not_before integer,                     -- null: every matching token
  expires_at integer,                     -- filled by the trigger
  revoked_at integer not null default (cast((julianday('now') - 2440587.5) * 86400000000 as integer)),
  actor      text    not null default '',
  reason     text    not null default '',
  key        blob    check (length(key) = 16),  -- null: written by hand; computed by the readers until adopted
  xid        integer
);
create unique index revocations_once on revocations (key, coalesce(not_before, 9223372036854775807));
create index revocations_xid     on revocations (xid);
create index revocations_expires on revocations (expires_at);
create index revocations_by_hand on revocations (id) where key is null;

-- +goose StatementBegin
create trigger revocation_stamp after insert on revocations begin
  update meta set seq = seq + 1;
  update revocations set
      xid        = (select seq from meta),
      not_before = case when new.not_before is null and new.kind in (2, 5)
                        then cast((julianday('now') - 2440587.5) * 86400000000 as integer) else new.not_before end
    where id = new.id;
  update revocations set
      expires_at = case when kind = 4 and not_before is null then 253402300799000000
                        else max(coalesce(not_before, 0), cast((julianday('now') - 2440587.5) * 86400000000 as integer))
                             + (select max_token_ttl from meta) end
    where id = new.id and expires_at is null;
end;
-- +goose StatementEnd

-- +goose StatementBegin
create trigger revocation_restamp after update of expires_at on revocations when old.expires_at is not null begin
  update meta set seq = seq + 1;
  update revocations set xid = (select seq from meta) where id = new.id;
end;
-- +goose StatementEnd

-- +goose StatementBegin
create trigger revocation_fixed before update on revocations
  when new.kind <> old.kind or new.iss <> old.iss or new.value <> old.value or new.revoked_at <> old.revoked_at
    or (old.xid is not null and new.not_before is not old.not_before)
    or (old.key is not null and new.key is not old.key)
    or (old.expires_at is not null and (new.expires_at is null or new.expires_at < old.expires_at))
begin
  select raise(abort, 'a revocation cannot be changed, only its expiry moved later');
end;
-- +goose StatementEnd

-- +goose StatementBegin
create trigger revocation_kept before delete on revocations
  when old.expires_at > cast((julianday('now') - 2440587.5) * 86400000000 as integer)
begin
  select raise(abort, 'a live revocation cannot be deleted: it ends when it expires');
end;
-- +goose StatementEnd
