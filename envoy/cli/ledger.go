package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/cache/rediscache"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/store"
)

// ledger is the store as commands use it, without a sidecar.
type ledger struct {
	*store.Store
	revoker *authz.Revoker
}

// withLedger opens the store that s names, and Redis if configured, and closes
// both after do. The store needs no schema yet.
func withLedger(ctx context.Context, s sidecar.Settings, p *Process, do func(context.Context, *ledger) error) (err error) {
	log := slog.New(slog.NewTextHandler(p.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	registry := prometheus.NewRegistry()
	st, err := sidecar.OpenStore(s, log, registry)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	var publisher authz.Publisher
	if s.Redis.Enabled() {
		redis, rerr := sidecar.OpenRedis(s, log, registry)
		if rerr != nil {
			return rerr
		}
		defer func() {
			// Close publishes the pending revocations first. If it cannot, they
			// are stored all the same and their receipts have said "not
			// published": the command has not failed.
			if cerr := redis.Close(); !errors.Is(cerr, rediscache.ErrNotPublished) {
				err = errors.Join(err, cerr)
			}
		}()
		publisher = redis
	}
	return do(ctx, &ledger{st, authz.NewRevoker(st, publisher, authz.SystemClock{})})
}

// withSchema is withLedger for a store that must have its schema. An embedded
// store without a schema gets it.
func withSchema(ctx context.Context, s sidecar.Settings, p *Process, do func(context.Context, *ledger) error) error {
	return withLedger(ctx, s, p, func(ctx context.Context, l *ledger) error {
		_, err := l.Limits(ctx)
		if errors.Is(err, store.ErrSchema) && l.Name() == "sqlite" {
			if err = l.Migrate(ctx); err == nil {
				_, err = l.Limits(ctx)
			}
		}
		switch {
		case errors.Is(err, store.ErrSchema):
			return fmt.Errorf("%w\nhint: run `jwt-bouncer migrate`", err)
		case err != nil:
			return err
		}
		return do(ctx, l)
	})
}
