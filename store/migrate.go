package store

import (
	"crypto/rand"
	"embed"
	"encoding/binary"
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

// newEpoch draws an epoch. The one that is stored does not help: a database
// that is restored twice from one snapshot would get the same next one twice,
// and followers would take two histories for one.
func newEpoch() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return int64(binary.BigEndian.Uint64(b[:])>>2) + 1
}
