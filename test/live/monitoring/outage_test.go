package monitoring

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

const rulesFile = "k8s/components/monitoring/prometheus-rules.yaml"

// faster is how much faster time passes for the rules than they say: with 30, five
// minutes are ten seconds.
const faster = 30

var minutes = regexp.MustCompile(`(for: |\[)(\d+)m`)

// hurried returns the rules with every duration divided by faster, and with the
// thresholds that an outage of minutes on one machine cannot reach replaced.
func hurried(t *testing.T) string {
	t.Helper()
	text := minutes.ReplaceAllStringFunc(read(t, rulesFile), func(m string) string {
		part := minutes.FindStringSubmatch(m)
		n, err := strconv.Atoi(part[2])
		require.NoError(t, err)
		return fmt.Sprintf("%s%ds", part[1], n*60/faster)
	})
	for from, to := range map[string]string{
		"process_start_time_seconds < 600":    "process_start_time_seconds < 20",
		") > 50\n":                            ") > 1\n", // loads of a fleet
		"(jwt_bouncer_replica_entries) > 1e6": "(jwt_bouncer_replica_entries) > 10",
		"jwt_bouncer_jwks_age_seconds > 3600": "jwt_bouncer_jwks_age_seconds > 60",
	} {
		require.Equal(t, 1, strings.Count(text, from), from)
		text = strings.Replace(text, from, to, 1)
	}
	return text
}

// world is a small fleet whose dependencies can be taken away.
type world struct {
	t                        *testing.T
	issuer                   *authztest.Issuer
	keys, store, redis, slow *harness.FaultProxy
	away, paused             *authztest.Transmitter // of event streams
	web, lookup, polling     *harness.BouncerServer
	front, lookupFront       *harness.Front
	webConfig                string
	forging                  atomic.Bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, issuer: authztest.NewIssuer(authztest.Named("https://issuer.example"))}
	t.Cleanup(w.issuer.Close)
	u, err := url.Parse(w.issuer.JWKSURL())
	require.NoError(t, err)
	w.keys = harness.Proxy(t, u.Host)
	pg, redis := harness.Postgres(t), harness.Redis(t)
	w.store, w.slow, w.redis = harness.Proxy(t, pg.Addr), harness.Proxy(t, pg.Addr), harness.Proxy(t, redis.Addr)
	secret := harness.WriteFile(t, harness.Dir(t), "secret", "a-client-secret-of-16\n")
	w.webConfig = fmt.Sprintf(`%sstore: %s
redis: %s
revocation: {max_staleness: 10s, sync_interval: 1s}
api:
  unverified_per_minute: 1
  clients: [{id: shop, secret_file: %s}]
`, w.issuers(), pg.Via(w.store.Addr), strings.Replace(redis.URL, redis.Addr, w.redis.Addr, 1), secret)
	w.web = harness.Bouncer(t, w.webConfig)
	w.newPolling()
	w.lookup = harness.Bouncer(t, fmt.Sprintf("%sstore: %s\nrevocation: {replica: off}\n", w.issuers(), pg.Via(w.slow.Addr)))
	upstream := harness.Upstream(t).Addr
	w.front, w.lookupFront = harness.NewFront(t, w.web.GRPC, upstream), harness.NewFront(t, w.lookup.GRPC, upstream)
	return w
}

// newPolling starts a sidecar that polls two event streams.
func (w *world) newPolling() {
	w.t.Helper()
	var issuers, streams strings.Builder
	transmitter := func() *authztest.Transmitter {
		tr := authztest.NewTransmitter()
		w.t.Cleanup(tr.Close)
		fmt.Fprintf(&issuers, "  - {issuer: %q, audiences: [api], refresh_interval: 10s}\n", tr.URL)
		token := harness.WriteFile(w.t, harness.Dir(w.t), "token", tr.Token+"\n")
		fmt.Fprintf(&streams, "  - {transmitter: %q, url: \"%s/poll/%s\", audiences: [%q], token_file: %q, interval: 1s}\n", tr.URL, tr.URL, tr.StreamID, tr.Audience, token)
		return tr
	}
	w.away, w.paused = transmitter(), transmitter()
	w.polling = harness.Bouncer(w.t, fmt.Sprintf("issuers:\n%sstore: %q\nevent_streams:\n%s", &issuers, "sqlite://"+filepath.Join(harness.Dir(w.t), "r.db"), &streams))
}

// issuers returns the stanza, with keys that are fetched often through the proxy.
func (w *world) issuers() string {
	u, err := url.Parse(w.issuer.JWKSURL())
	require.NoError(w.t, err)
	u.Host = w.keys.Addr
	return fmt.Sprintf("issuers:\n  - {issuer: %s, audiences: [api], jwks: %q, refresh_interval: 10s}\n", w.issuer.Name, u)
}

// drive sends requests to both sidecars until the test ends: valid tokens of fifty
// users, and forged ones while w.forging is set.
func (w *world) drive() {
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	w.t.Cleanup(func() { stop(); all.Wait() })
	forger := authztest.NewIssuer(authztest.Named(w.issuer.Name), authztest.Offline())
	var valid []string
	for n := range 50 {
		valid = append(valid, w.issuer.Mint(map[string]any{"sub": fmt.Sprint("user-", n), "exp": time.Now().Add(time.Hour).Unix()}))
	}
	for _, front := range []*harness.Front{w.front, w.lookupFront} {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				token := valid[n%len(valid)]
				if w.forging.Load() {
					token = forger.Mint(map[string]any{"sub": "mallory"})
				}
				// An error is an outage, which the metrics show.
				_, _ = front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+token)
				harness.Pause(ctx, 20*time.Millisecond)
			}
		})
	}
}

func (w *world) revoke(user string) int {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	receipt, err := harness.PostRevocation(ctx, w.web.HTTP, map[string]any{"sub": user})
	require.NoError(w.t, err)
	return receipt.Status
}

// madeUp has a client revoke tokens that nobody signed, beyond its allowance.
func (w *world) madeUp() {
	w.t.Helper()
	forger := authztest.NewIssuer(authztest.Named(w.issuer.Name), authztest.Offline())
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 3 {
		form := url.Values{"token": {forger.Mint(nil)}, "client_id": {"shop"}, "client_secret": {"a-client-secret-of-16"}}
		resp, err := client.PostForm(w.web.HTTP+"/oauth2/revoke", form)
		require.NoError(w.t, err)
		require.NoError(w.t, resp.Body.Close())
	}
}

// alertNames are the alerts of the rules.
func alertNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, m := range regexp.MustCompile(`- alert: (\S+)`).FindAllStringSubmatch(read(t, rulesFile), -1) {
		names = append(names, m[1])
	}
	require.Greater(t, len(names), 10)
	return names
}

// TestOutage: while nothing is wrong, no alert fires in a real Prometheus. In an
// outage of store, Redis, keys, event streams and configuration, with forged tokens and a client that
// makes tokens up, every alert fires. After the repair every alert resolves. Every
// query of the dashboard then returns data of the time.
func TestOutage(t *testing.T) {
	w := newWorld(t)
	for n := range 20 {
		require.Equal(t, http.StatusCreated, w.revoke(fmt.Sprint("gone-", n)))
	}
	p := startPrometheus(t, hurried(t))
	begin := time.Now()
	p.watch("shop", "web-0", w.web)
	p.watch("shop", "web-1", w.lookup)
	p.watch("signals", "polling-0", w.polling) // its store stays, so it is no part of the fleet that lags
	w.drive()
	harness.Eventually(t, 3*time.Minute, "20 s of allowed requests", func(context.Context) error {
		busy := p.queryRange(`rate(jwt_bouncer_decisions_total{reason="allowed",pod="web-0"}[5s]) > 0`, begin, time.Now(), time.Second)
		if len(busy) == 0 || len(busy[0].points) < 20 {
			return fmt.Errorf("%v", busy)
		}
		return nil
	})
	calm(t, p, "before the outage")

	w.breakAll()
	late := w.startLate(p)
	missing := map[string]bool{}
	for _, name := range alertNames(t) {
		missing[name] = true
	}
	harness.Eventually(t, 6*time.Minute, "every alert fires", func(ctx context.Context) error {
		firing, _, err := p.firing(ctx)
		maps.DeleteFunc(missing, func(name string, _ bool) bool { return firing[name] })
		if err == nil && len(missing) > 0 {
			err = fmt.Errorf("not yet: %v", slices.Sorted(maps.Keys(missing)))
		}
		return err
	})

	w.repair()
	harness.Eventually(t, time.Minute, "the late sidecar has keys", late.Ready)
	calm(t, p, "after the repair")
	dashboard(t, p, begin, time.Now())
}

// calm waits until no alert is active.
func calm(t *testing.T, p *prometheus, when string) {
	t.Helper()
	harness.Eventually(t, 3*time.Minute, "no alert "+when, func(ctx context.Context) error {
		_, active, err := p.firing(ctx)
		if err == nil && len(active) > 0 {
			err = fmt.Errorf("active: %v", slices.Sorted(maps.Keys(active)))
		}
		return err
	})
}

func (w *world) breakAll() {
	w.t.Helper()
	w.web.Process.Stop(syscall.SIGTERM, 15*time.Second) // it starts again, as in a rollout
	w.web.Start(w.t)
	w.slow.Latency(100 * time.Millisecond)
	w.redis.Down()
	require.Equal(w.t, http.StatusCreated, w.revoke("unannounced"))
	w.madeUp()
	w.store.Down()
	assert.Contains(w.t, []int{http.StatusServiceUnavailable, http.StatusGatewayTimeout}, w.revoke("refused"), "504: the connection broke before the store's answer")
	w.keys.Down()
	w.away.Fail(func(r http.ResponseWriter, _ authztest.Poll) bool {
		r.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	w.paused.Update("paused", "maintenance")
	w.web.SetConfig(w.t, w.webConfig+"no_such_key: 1\n")
	w.forging.Store(true)
	time.AfterFunc(20*time.Second, func() { w.forging.Store(false) })
}

// startLate starts a sidecar while the issuer's keys are away.
func (w *world) startLate(p *prometheus) *harness.BouncerServer {
	w.t.Helper()
	late := harness.Bouncer(w.t, w.issuers()+fmt.Sprintf("store: %q\n", "sqlite://"+filepath.Join(harness.Dir(w.t), "r.db")), harness.BouncerOptions{NoWait: true})
	p.watch("shop", "late-0", late)
	return late
}

func (w *world) repair() {
	w.t.Helper()
	w.away.Fail(nil)
	w.paused.Update("enabled", "")
	w.web.SetConfig(w.t, w.webConfig)
	for _, proxy := range []*harness.FaultProxy{w.keys, w.store, w.redis, w.slow} {
		proxy.Heal()
	}
}
