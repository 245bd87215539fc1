-- +goose Up
-- An epoch that is one more than the last can be given twice: it lies in what is restored. So each is drawn, here as
-- by the program; but a store that is in use keeps its own, and nobody has to reload.
update authz.meta set epoch = ('x' || right(replace(gen_random_uuid()::text, '-', ''), 15))::bit(60)::bigint
  where not exists (select from authz.revocations);

update authz.meta set schema_version = 3;
