package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/cache"
	"jwtbouncer/store"
)

// Admin is what the commands need that act on the store without a sidecar.
type Admin struct {
	Store *store.Store
	redis *cache.Redis
	bound time.Duration
}

// OpenAdmin connects to the store that s names, and says which it is and why
// when it cannot be used. Its schema must be there: `migrate` or a sidecar
// that started makes it; an embedded store is made here.
func OpenAdmin(ctx context.Context, s Settings, log *slog.Logger) (*Admin, error) {
	st, err := openStore(s, log, prometheus.NewRegistry())
	if err != nil {
		return nil, err
	}
	a := &Admin{Store: st, bound: s.Revocation.MaxStaleness}
	if s.Redis.Enabled() {
		if a.redis, err = openRedis(s, log, prometheus.NewRegistry()); err != nil {
			return nil, errors.Join(err, st.Close())
		}
	}
	return a, nil
}

// Usable reports why the store cannot be used; nil: it can. An embedded store
// without a schema gets it.
func (a *Admin) Usable(ctx context.Context) error {
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
func (a *Admin) Revoker() *authz.Revoker {
	var announcer authz.Announcer
	if a.redis != nil {
		announcer = a.redis
	}
	return authz.NewRevoker(a.Store, announcer, a.bound, authz.SystemClock{})
}

// Close ends the connections; announcements still waiting are handed over first.
func (a *Admin) Close() error {
	var err error
	if a.redis != nil {
		// The order stands, and its receipt has said that it was not announced:
		// a command that stored it has not failed.
		if err = a.redis.Close(); errors.Is(err, cache.ErrNotAnnounced) {
			err = nil
		}
	}
	return errors.Join(err, a.Store.Close())
}
