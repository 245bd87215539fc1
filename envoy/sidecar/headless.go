package sidecar

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/cache"
)

// Headless is a sidecar without its listeners: exactly what Serve runs between
// its ports on one side, and the store and Redis on the other. test/load/fleet
// runs hundreds in one process to find out what a fleet costs the store.
type Headless struct {
	core    *core
	replica *cache.ReplicaTier // nil: lookup mode
	end     context.CancelFunc // nil until Start
}

var errNoReplica = errors.New("there is no replica in lookup mode")

// NewHeadless wires a sidecar. It needs no network. registry takes the metrics of
// this one sidecar.
func NewHeadless(s Settings, log *slog.Logger, registry prometheus.Registerer) (*Headless, error) {
	c, err := newCore(s, log, registry)
	if err != nil {
		return nil, err
	}
	h := &Headless{core: c}
	if c.follower != nil {
		h.replica = cache.NewReplicaTier(c.follower)
	}
	return h, nil
}

// Start begins the background work, which lasts until Close.
func (h *Headless) Start() {
	ctx, end := context.WithCancel(context.Background())
	h.end = end
	h.core.start(ctx)
}

// Close ends the background work and the connections.
func (h *Headless) Close() error {
	if h.end != nil {
		h.end()
	}
	return h.core.close()
}

// Ready reports whether the revocations have been loaded, or, in lookup mode,
// whether the store has been reached.
func (h *Headless) Ready() bool { return h.core.revocationsReady() == nil }

// Revoke stores revocations and publishes them, as every endpoint does.
func (h *Headless) Revoke(ctx context.Context, revocations ...authz.Revocation) (authz.Receipt, error) {
	return h.core.revoker.Revoke(ctx, revocations)
}

// Authorize decides about a request, as the gRPC service does.
func (h *Headless) Authorize(ctx context.Context, r *authz.Request) authz.Decision {
	return h.core.authorizer.Authorize(ctx, r)
}

// Replica returns the verdict of the replica alone, without Redis and the store.
// It is an error in lookup mode.
func (h *Headless) Replica(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	if h.replica == nil {
		return authz.Unknown, errNoReplica
	}
	return h.replica.Lookup(ctx, q)
}

// Staleness returns the age of what the replica knows. It is negative before the
// first load, and in lookup mode.
func (h *Headless) Staleness() time.Duration {
	if h.core.follower == nil {
		return -1
	}
	return h.core.follower.Staleness()
}
