package cli

import (
	"context"
	"fmt"
	"io"

	"jwtbouncer/store"
)

type migrateCmd struct {
	outputFlag
	BumpEpoch bool   `help:"Also make every sidecar reload all revocations; needed after restoring a backup."`
	Bridge    string `placeholder:"ISSUER" help:"Also take over the rows of an existing table revoked_tokens, now and whenever one is inserted, as revocations of this issuer's tokens."`
}

// Help is shown by migrate --help.
func (*migrateCmd) Help() string {
	return "Run it again whenever you like: it changes what is missing. On PostgreSQL it also gives the roles authz_sidecar and authz_revoker their rights, and creates them if its login may. If it may not, migrate prints the SQL for an administrator and ends with code 4; the schema is complete then, and a login that owns it can use it."
}

// migration is what the command has done.
type migration struct {
	Store         string `json:"store"`
	SchemaVersion int    `json:"schema_version"`
	Bridged       *int64 `json:"rows_bridged,omitempty"` // nil: no bridge was asked for
	EpochRaised   bool   `json:"epoch_raised"`
	MissingRoles  string `json:"missing_roles_sql,omitempty"`
}

// Run implements the command.
func (m *migrateCmd) Run(ctx context.Context, c *command, p *Process) error {
	s, err := c.settings(p)
	if err != nil {
		return err
	}
	return withLedger(ctx, s, p, func(ctx context.Context, l *ledger) error {
		done, err := m.migrate(ctx, l)
		if err != nil {
			return err
		}
		if err := m.print(p, done, done.table); err != nil {
			return err
		}
		if done.MissingRoles != "" {
			return ErrRolesMissing
		}
		return nil
	})
}

func (m *migrateCmd) migrate(ctx context.Context, l *ledger) (done migration, err error) {
	if err := l.Migrate(ctx); err != nil {
		return done, err
	}
	done = migration{Store: l.Name(), SchemaVersion: store.SchemaVersion}
	if m.Bridge != "" {
		n, err := l.InstallBridge(ctx, store.BridgeOptions{Issuer: m.Bridge})
		if err != nil {
			return done, err
		}
		done.Bridged = &n
	}
	if m.BumpEpoch {
		if err := l.BumpEpoch(ctx); err != nil {
			return done, err
		}
		done.EpochRaised = true
	}
	done.MissingRoles, err = l.MissingRoles(ctx)
	return done, err
}

func (d migration) table(w io.Writer) {
	fmt.Fprintf(w, "%s: schema is at version %d\n", d.Store, d.SchemaVersion)
	if d.Bridged != nil {
		fmt.Fprintf(w, "bridge from revoked_tokens installed, %d rows taken over\n", *d.Bridged)
	}
	if d.EpochRaised {
		fmt.Fprintln(w, "epoch raised: every sidecar reloads")
	}
	if d.MissingRoles != "" {
		fmt.Fprintf(w, "roles are missing, and this login may not create them; as an administrator, run:\n\n%s\nThen grant the roles to the sidecars' logins. A login that owns the schema needs no role.\n", d.MissingRoles)
	}
}
