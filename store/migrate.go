package store

import (
	"embed"
	"fmt"
	"io/fs"
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

// checkSchema compares a schema's version, and the oldest code it serves, with
// this code.
func checkSchema(version, compatible int) error {
	switch {
	case version < oldestSchema:
		return fmt.Errorf("%w: it has version %d and this program needs %d; run `jwt-bouncer migrate`", ErrSchema, version, oldestSchema)
	case compatible > SchemaVersion:
		return fmt.Errorf("%w: it has version %d, which needs programs written for version %d or later and this one is for %d; upgrade jwt-bouncer",
			ErrSchema, version, compatible, SchemaVersion)
	}
	return nil
}
