package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/cache"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/store"
)

// admin opens the store for a command and closes it again.
func (c *command) admin(ctx context.Context, io *Process, do func(*admin) error) error {
	settings, err := c.settings(io)
	if err != nil {
		return err
	}
	return administer(ctx, settings, io, do)
}

func administer(ctx context.Context, s sidecar.Settings, io *Process, do func(*admin) error) error {
	log := slog.New(slog.NewTextHandler(io.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	a, err := openAdmin(ctx, s, log)
	if err != nil {
		return err
	}
	return errors.Join(do(a), a.Close())
}

// admin is what the commands need that act on the store without a sidecar.
type admin struct {
	Store *store.Store
	redis *cache.Redis
	bound time.Duration
}

// openAdmin connects to the store that s names, and says which it is and why
// when it cannot be used. Its schema must be there: `migrate` or a sidecar
// that started makes it; an embedded store is made here.
func openAdmin(ctx context.Context, s sidecar.Settings, log *slog.Logger) (*admin, error) {
	st, err := sidecar.OpenStore(s, log, prometheus.NewRegistry())
	if err != nil {
		return nil, err
	}
	a := &admin{Store: st, bound: s.Revocation.MaxStaleness}
	if s.Redis.Enabled() {
		if a.redis, err = sidecar.OpenRedis(s, log, prometheus.NewRegistry()); err != nil {
			return nil, errors.Join(err, st.Close())
		}
	}
	return a, nil
}

// Usable reports why the store cannot be used; nil: it can. An embedded store
// without a schema gets it.
func (a *admin) Usable(ctx context.Context) error {
	err := a.Store.Ping(ctx)
	if errors.Is(err, store.ErrSchema) && a.Store.Name() == "sqlite" {
		if err = a.Store.Migrate(ctx); err == nil {
			err = a.Store.Ping(ctx)
		}
	}
	if errors.Is(err, store.ErrSchema) {
		return fmt.Errorf("%w\nhint: run `jwt-bouncer migrate`", err)
	}
	return err
}

// Revoker returns the write path.
func (a *admin) Revoker() *authz.Revoker {
	var publisher authz.Publisher
	if a.redis != nil {
		publisher = a.redis
	}
	return authz.NewRevoker(a.Store, publisher, a.bound, authz.SystemClock{})
}

// Close ends the connections; revocations still queued are published first.
func (a *admin) Close() error {
	var err error
	if a.redis != nil {
		// The revocation is stored, and its receipt has said that it was not
		// published: the command has not failed.
		if err = a.redis.Close(); errors.Is(err, cache.ErrNotPublished) {
			err = nil
		}
	}
	return errors.Join(err, a.Store.Close())
}
