package cli

import (
	"context"
	"fmt"

	"jwtbouncer/store"
)

type migrateCmd struct {
	BumpEpoch bool   `help:"Also make every sidecar reload all revocations; needed after restoring a backup."`
	Bridge    string `placeholder:"ISSUER" help:"Also take over the rows of an existing table revoked_tokens, now and whenever one is inserted, as revocations of this issuer's tokens."`
}

// Run implements the command.
func (m *migrateCmd) Run(ctx context.Context, c *command, p *Process) error {
	s, err := c.settings(p)
	if err != nil {
		return err
	}
	return withLedger(ctx, s, p, func(ctx context.Context, l *ledger) error {
		if err := l.Migrate(ctx); err != nil {
			return err
		}
		fmt.Fprintf(p.Out, "%s: schema is at version %d\n", l.Name(), store.SchemaVersion)
		if m.Bridge != "" {
			n, err := l.InstallBridge(ctx, store.BridgeOptions{Issuer: m.Bridge})
			if err != nil {
				return err
			}
			fmt.Fprintf(p.Out, "bridge from revoked_tokens installed, %d rows taken over\n", n)
		}
		if m.BumpEpoch {
			if err := l.BumpEpoch(ctx); err != nil {
				return err
			}
			fmt.Fprintln(p.Out, "epoch raised: every sidecar reloads")
		}
		return nil
	})
}
