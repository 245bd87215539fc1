-- +goose Up
-- An epoch that is one more than the last can be given twice: it lies in what is restored. So each is drawn, here as
-- by the program; but a store that is in use keeps its own, and nobody has to reload.
update meta set epoch = random() & 4611686018427387903 where not exists (select 1 from revocations);
-- +goose StatementBegin
create trigger meta_epoch after update of epoch on meta when new.epoch = old.epoch + 1 begin  -- an earlier program
  update meta set epoch = random() & 4611686018427387903;
end;
-- +goose StatementEnd

-- What max_token_ttl was before it was raised, and until when. Revocations may have ended, and been deleted, by the
-- shorter life: about a token that was issued until then and lives longer, their absence says nothing. As long as one
-- raise matters, another does not make it forgotten.
alter table meta add column max_token_ttl_before integer;
alter table meta add column max_token_ttl_raised integer;
-- And what max_staleness was before it was lowered. A sidecar that is cut off from here keeps to that until what it
-- knows is as old.
alter table meta add column max_staleness_before integer;
alter table meta add column max_staleness_lowered integer;
-- +goose StatementBegin
create trigger meta_lowered after update of max_staleness on meta when new.max_staleness < old.max_staleness begin
  update meta set
      max_staleness_before = case when old.max_staleness_lowered + old.max_staleness_before + 60000000 > cast((julianday('now') - 2440587.5) * 86400000000 as integer)
                                  then max(old.max_staleness, old.max_staleness_before) else old.max_staleness end,
      max_staleness_lowered = cast((julianday('now') - 2440587.5) * 86400000000 as integer);
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger meta_raised after update of max_token_ttl on meta when new.max_token_ttl > old.max_token_ttl begin
  update meta set
      max_token_ttl_before = case when old.max_token_ttl_raised + old.max_token_ttl + 3600000000 > cast((julianday('now') - 2440587.5) * 86400000000 as integer)
                                  then min(old.max_token_ttl, old.max_token_ttl_before) else old.max_token_ttl end,
      max_token_ttl_raised = cast((julianday('now') - 2440587.5) * 86400000000 as integer);
end;
-- +goose StatementEnd

update meta set schema_version = 3;
