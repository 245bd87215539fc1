package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// requireUTF8 refuses a database in another encoding, which cannot store the names
// of every issuer and subject. It calls validate (nil: nothing) first.
func requireUTF8(validate pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, c *pgconn.PgConn) error {
		if validate != nil {
			if err := validate(ctx, c); err != nil {
				return err
			}
		}
		if e := c.ParameterStatus("server_encoding"); e != "" && e != "UTF8" {
			return fmt.Errorf("the database is encoded in %s; create one with encoding 'UTF8'", e)
		}
		return nil
	}
}
