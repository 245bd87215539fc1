package sidecar

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// Whoever is told by a sidecar that a token is revoked may ask that sidecar
// next: its own replica knows before the receipt is out.
func TestRevocationHereIsEnforcedAtOnce(t *testing.T) {
	t.Parallel()
	s := Defaults()
	s.Issuers = []authz.IssuerConfig{{Issuer: "https://issuer.example", Audiences: []string{"api"}, JWKS: filepath.Join(t.TempDir(), "none.json")}}
	s.Store = "sqlite://" + filepath.Join(t.TempDir(), "r.db")
	c, err := newCore(s, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	defer func() {
		end()
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}()
	c.start(ctx)
	for c.revocationsReady() != nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond) // a real store: nothing else tells
	}
	for i, rv := range []authz.Revocation{
		{Kind: authz.KindJTI, Issuer: "https://issuer.example", Value: "t"},
		{Kind: authz.KindSub, Issuer: "https://issuer.example", Value: "s"},
	} {
		if c.replica.Revokes([]authz.Key{rv.Key()}, 1) {
			t.Fatalf("%d: revoked before", i)
		}
		if _, err := c.revoker.Revoke(ctx, []authz.Revocation{rv}, authz.WaitCommitted); err != nil {
			t.Fatal(err)
		}
		if !c.replica.Revokes([]authz.Key{rv.Key()}, 1) {
			t.Errorf("%d: the receipt is out and the replica does not know", i)
		}
	}
}
