package store

import (
	"cmp"
	"context"
	"fmt"

	"jwtbouncer/authz"
)

// bridge puts a trigger on another writer's table and takes over what is in it.
func (p *postgresStore) bridge(ctx context.Context, o BridgeOptions) (n int64, err error) {
	if o.Issuer == "" {
		return 0, fmt.Errorf("%w: bridge: the issuer of the table's tokens is needed", authz.ErrInvalid)
	}
	err = p.writes.QueryRow(ctx, `select authz.install_bridge($1, $2)`, cmp.Or(o.Table, "revoked_tokens"), o.Issuer).Scan(&n)
	return n, p.fail(err)
}
