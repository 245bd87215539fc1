package cli

import (
	"context"
	"fmt"
	"jwtbouncer/store"
)

type migrateCmd struct {
	BumpEpoch bool   `help:"Also make every sidecar reload all revocations: after a restore from a backup."`
	Bridge    string `placeholder:"ISSUER" help:"Also let rows inserted into an existing table revoked_tokens flow in, as tokens of this issuer."`
}

// Run implements the command.
func (m *migrateCmd) Run(ctx context.Context, c *command, io *Process) error {
	return c.admin(ctx, io, func(a *admin) error {
		if err := a.Store.Migrate(ctx); err != nil {
			return err
		}
		fmt.Fprintf(io.Out, "%s: schema is at version %d\n", a.Store.Name(), store.SchemaVersion)
		if m.Bridge != "" {
			n, err := a.Store.InstallBridge(ctx, store.BridgeOptions{Issuer: m.Bridge})
			if err != nil {
				return err
			}
			fmt.Fprintf(io.Out, "bridge from revoked_tokens is in place, %d rows taken over\n", n)
		}
		if m.BumpEpoch {
			if err := a.Store.BumpEpoch(ctx); err != nil {
				return err
			}
			fmt.Fprintln(io.Out, "epoch raised: every sidecar reloads")
		}
		return nil
	})
}
