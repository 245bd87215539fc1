package store

import (
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrationFiles embed.FS

func migrationsOf(dialect string) fs.FS {
	sub, err := fs.Sub(migrationFiles, "migrations/"+dialect)
	if err != nil {
		panic(err) // the directories are embedded above
	}
	return sub
}

// checkSchema compares a schema's version with the one of this program.
func checkSchema(version int) error {
	switch {
	case version < SchemaVersion:
		return fmt.Errorf("%w: it has version %d and this program needs version %d; run `jwt-bouncer migrate`", ErrSchema, version, SchemaVersion)
	case version > SchemaVersion:
		return fmt.Errorf("%w: it has version %d and this program is for version %d; upgrade jwt-bouncer", ErrSchema, version, SchemaVersion)
	}
	return nil
}

// installed reports whether a run of the migrations created the schema.
func installed(applied []*goose.MigrationResult) bool {
	return len(applied) > 0 && applied[0].Source.Version == 1
}
