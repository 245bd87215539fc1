-- +goose Up
-- SQLite takes any value for any column; what enforcement cannot read is refused here.
-- +goose StatementBegin
create trigger revocation_types before insert on revocations
  when typeof(new.kind) <> 'integer' or typeof(new.iss) <> 'text' or typeof(new.value) <> 'text' or typeof(new.key) not in ('blob', 'null')
    or typeof(new.not_before) not in ('integer', 'null') or typeof(new.expires_at) not in ('integer', 'null')
begin
  select raise(abort, 'kind is a whole number, iss and value are text, times are whole microseconds since 1970');
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger revocation_type before update of expires_at on revocations when typeof(new.expires_at) not in ('integer', 'null') begin
  select raise(abort, 'times are whole microseconds since 1970');
end;
-- +goose StatementEnd
update meta set schema_version = 2;
