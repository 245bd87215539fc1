-- +goose Up
-- The second word of the nonce, where there is one, is the caller's clock in Unix seconds. A revocation is over when
-- both clocks say so: one here that was set forward by mistake must not hide what is revoked. Who sent a clock is told
-- ours behind the echoed nonce, and max_token_ttl in seconds.
-- +goose StatementBegin
create or replace function authz.lookup(keys bytea[], nonce text, out echo text, out recovering boolean, out fresh boolean, out level bigint)
language sql stable security definer set lock_timeout = '150ms'
begin atomic
  select case when split_part(nonce, ' ', 2) = '' then nonce
              else format('%s %s %s', nonce, floor(date_part('epoch', clock_timestamp())), (select floor(date_part('epoch', m.max_token_ttl)) from authz.meta m)) end,
      pg_is_in_recovery(), now() = statement_timestamp(),
      coalesce(max(case when r.not_before is null then 9223372036854775807 else ceil(date_part('epoch', r.not_before))::bigint end), 0)
    from authz.revocations r where r.key = any (keys)
      and r.expires_at > least(now(), to_timestamp(nullif(split_part(nonce, ' ', 2), '')::float8)) - interval '5 minutes';
end;
-- +goose StatementEnd
update authz.meta set schema_version = 2;
