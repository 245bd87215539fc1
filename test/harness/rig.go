package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
)

// Rig is a whole installation: an issuer, a store, optionally Redis, and one or
// more sidecars, each with an Envoy in front of the one upstream.
type Rig struct {
	Issuer   *authztest.Issuer
	Upstream *UpstreamServer
	PG       *PG          // nil with SQLite
	SQLite   string       // path of the database file; empty with PostgreSQL
	Redis    *RedisServer // nil if RigOptions.Redis is false
	// Proxies between the sidecars and PostgreSQL or Redis; nil without Faults.
	PGProxy, RedisProxy *FaultProxy
	Bouncers            []*BouncerServer
	Fronts              []*Front
	// Bouncer and Front are the first of Bouncers and Fronts.
	Bouncer *BouncerServer
	Front   *Front
	Config  string // without the listen stanza
}

// RigOptions configures a Rig. The zero value is one sidecar on SQLite in
// replica mode.
type RigOptions struct {
	Postgres      bool
	OwnPostgres   []string // settings of a dedicated server; not nil implies Postgres
	Redis         bool
	RedisSettings []string
	RedisURL      string // Redis that the test has started
	StoreURL      string // store that the test has started
	Lookup        bool   // replica: off
	Allow         bool   // on_revocation_unknown: allow
	Faults        bool   // put proxies in front of PostgreSQL and Redis
	MaxStaleness  time.Duration
	SyncInterval  time.Duration
	Sidecars      int    // 0 means 1
	Config        string // further stanzas
	Revocation    string // further settings of the revocation stanza: "a: b, c: d"
	JWKS          string // empty means the issuer's URL
	Issuer        *authztest.Issuer
	Issuers       string // further items of the issuers stanza, as YAML lines
	Front         FrontOptions
	NoFront       bool
	Module        bool // the product runs in each Envoy, as a dynamic module; see ThroughModule
	Bouncer       BouncerOptions
	// Wall clocks of the servers; nil means the machine's. Bouncer.Clock is the
	// sidecars'.
	PGClock, RedisClock *Clock
}

// NewRig starts the installation and waits until it is ready.
func NewRig(t testing.TB, o RigOptions) *Rig {
	t.Helper()
	NeedsProcess(t)
	r := &Rig{Upstream: Upstream(t), Issuer: o.Issuer}
	if r.Issuer == nil {
		r.Issuer = authztest.NewIssuer(authztest.Named("https://issuer.example"))
		t.Cleanup(r.Issuer.Close)
	}
	store := o.StoreURL
	switch {
	case store != "":
	case o.OwnPostgres != nil:
		r.PG = OwnPostgresAt(t, o.PGClock, o.OwnPostgres...)
	case o.Postgres:
		r.PG = Postgres(t)
	default:
		r.SQLite = filepath.Join(Dir(t), "revocations.db")
		store = "sqlite://" + r.SQLite
	}
	if r.PG != nil {
		store = r.PG.URL
		if o.Faults {
			r.PGProxy = Proxy(t, r.PG.Addr)
			store = r.PG.Via(r.PGProxy.Addr)
		}
	}
	url := o.RedisURL
	if o.Redis {
		r.Redis = RedisAt(t, o.RedisClock, o.RedisSettings...)
		url = r.Redis.URL
		if o.Faults {
			r.RedisProxy = Proxy(t, r.Redis.Addr)
			url = strings.Replace(url, r.Redis.Addr, r.RedisProxy.Addr, 1)
		}
	}
	jwks := o.JWKS
	if jwks == "" {
		jwks = r.Issuer.JWKSURL()
	}
	if o.MaxStaleness == 0 {
		o.MaxStaleness = 30 * time.Second
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = 2 * time.Second
	}
	var c strings.Builder
	fmt.Fprintf(&c, "issuers:\n  - issuer: %s\n    audiences: [api]\n    jwks: %s\n%sstore: %s\n", r.Issuer.Name, jwks, o.Issuers, store)
	if url != "" {
		fmt.Fprintf(&c, "redis: %s\n", url)
	}
	more := ""
	if o.Revocation != "" {
		more = ", " + o.Revocation
	}
	fmt.Fprintf(&c, "revocation: {replica: %s, max_staleness: %s, sync_interval: %s, on_revocation_unknown: %s%s}\n%s",
		onOff(!o.Lookup, "on", "off"), o.MaxStaleness, o.SyncInterval, onOff(o.Allow, "allow", "deny"), more, o.Config)
	r.Config = c.String()
	for range max(o.Sidecars, 1) {
		if o.Module || ThroughModule() && !o.NoFront {
			b, f := Module(t, r.Config, r.Upstream.Addr, o.Front)
			r.Bouncers, r.Fronts = append(r.Bouncers, b), append(r.Fronts, f)
			continue
		}
		b := Bouncer(t, r.Config, o.Bouncer)
		r.Bouncers = append(r.Bouncers, b)
		if !o.NoFront {
			r.Fronts = append(r.Fronts, NewFront(t, b.GRPC, r.Upstream.Addr, o.Front))
		}
	}
	r.Bouncer = r.Bouncers[0]
	if !o.NoFront {
		r.Front = r.Fronts[0]
	}
	return r
}

func onOff(v bool, on, off string) string {
	if v {
		return on
	}
	return off
}

// Token mints a valid token; claims may be nil.
func (r *Rig) Token(claims map[string]any) string { return r.Issuer.Mint(claims) }

// Receipt is the API's response to a revocation request.
type Receipt struct {
	Status int
	Body   string
}

// TryRevoke posts a revocation request, or an array of them, to the first
// sidecar.
func (r *Rig) TryRevoke(ctx context.Context, revocation any) (Receipt, error) {
	return PostRevocation(ctx, r.Bouncer.HTTP, revocation)
}

// Revoke is TryRevoke; it fails the test unless the revocation is acknowledged.
func (r *Rig) Revoke(t testing.TB, revocation any) Receipt {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	rec, err := r.TryRevoke(ctx, revocation)
	require.NoErrorf(t, err, "revoke %v: %d %s %v", revocation, rec.Status, rec.Body, err)
	require.Equalf(t, http.StatusCreated, rec.Status, "revoke %v: %s %v", revocation, rec.Body, err)
	return rec
}

// PostRevocation posts a revocation request to the sidecar at base.
func PostRevocation(ctx context.Context, base string, revocation any) (Receipt, error) {
	body, err := json.Marshal(revocation)
	if err != nil {
		return Receipt{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/revocations", bytes.NewReader(body))
	if err != nil {
		return Receipt{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := plain.Do(req)
	if err != nil {
		return Receipt{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return Receipt{resp.StatusCode, string(text)}, err
}

// AwaitStatus waits until a request with the token is answered with status, and
// returns how long that took.
func (f *Front) AwaitStatus(t testing.TB, token string, status int, within time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	Eventually(t, within, fmt.Sprintf("status %d", status), func(context.Context) error {
		if r := f.Bearer(t, token); r.Status != status {
			return fmt.Errorf("status %d %s", r.Status, r.Body)
		}
		return nil
	})
	return time.Since(start)
}
