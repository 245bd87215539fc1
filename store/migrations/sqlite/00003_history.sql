-- +goose Up
-- An epoch that is one more than the last can be given twice: it lies in what is restored. So each is drawn, here as
-- by the program; but a store that is in use keeps its own, and nobody has to reload.
update meta set epoch = random() & 4611686018427387903 where not exists (select 1 from revocations);

update meta set schema_version = 3;
