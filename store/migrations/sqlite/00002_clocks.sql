-- +goose Up
-- Nothing changes here: a file has no clock of its own.
update meta set schema_version = 2;
