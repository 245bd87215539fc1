package load

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// The kinds of authorization that a request through Envoy is measured with.
const (
	withNothing = iota
	withModule
	withJWT
	withJWTCache
	withNoop
	withTunedNoop
	withProduct
	withProductUnix
)

// front is an Envoy with one kind of authorization, and the ext_authz server that it asks.
type front struct {
	name   string
	envoy  *server
	server *server // nil: Envoy decides by itself
	addr   string
	// verifies reports whether a forged token is denied.
	verifies bool
}

// fronts starts an Envoy of each kind. Envoy responds by itself; there is no upstream.
func (w *world) fronts(t testing.TB, workers int) []front {
	t.Helper()
	options := harness.ReleaseModuleEnvoy(t)
	options.Workers = workers
	noop, tuned, tcp := w.baseline(t, "noop"), w.tuned(t, "noop"), w.product(t, "", "", "")
	unix := w.productAt(t, "unix://"+filepath.Join(harness.Dir(t), "authz.sock"), "", "", "")
	module, moduleHTTP := w.module(t)
	kinds := []struct {
		name, filter string
		server       *server
		verifies     bool
	}{
		withNothing:     {"no authorization", "", nil, false},
		withModule:      {"**jwt-bouncer** in process", module, nil, true},
		withJWT:         {"Envoy's jwt_authn (verifies, knows no revocation)", w.jwtAuthn(""), nil, true},
		withJWTCache:    {"Envoy's jwt_authn with its token cache", w.jwtAuthn(", jwt_cache_config: {}"), nil, true},
		withNoop:        {"ext_authz, stock no-op, TCP", extAuthz, noop, false},
		withTunedNoop:   {"ext_authz, the same no-op with the product's settings, TCP", extAuthz, tuned, false},
		withProduct:     {"ext_authz, **jwt-bouncer**, TCP", extAuthz, tcp, true},
		withProductUnix: {"ext_authz, **jwt-bouncer**, Unix socket", extAuthz, unix, true},
	}
	all := make([]front, len(kinds))
	for i, k := range kinds {
		target := ""
		if k.server != nil {
			target = k.server.target
		}
		e := harness.Envoy(t, envoyConfig(k.filter, target), options)
		all[i] = front{k.name, &server{name: k.name, pid: e.PID()}, k.server, e.Addr("in"), k.verifies}
		t.Cleanup(func() { e.Stop(syscall.SIGTERM, 5*time.Second) }) // before the servers, which come first
	}
	product := &harness.BouncerServer{HTTP: moduleHTTP}
	harness.Eventually(t, 30*time.Second, "the product in Envoy is ready", product.Ready)
	return all
}

// module returns the filter for the product in Envoy's process, and its HTTP address.
func (w *world) module(t testing.TB) (filter, http string) {
	t.Helper()
	dir := harness.Dir(t)
	address := fmt.Sprintf("127.0.0.1:%d", harness.Port(t))
	config := fmt.Sprintf("listen: {http: %q}\nissuers:\n- {issuer: https://issuer.example.com, audiences: [api], jwks: %s}\nstore: %q\n",
		address, w.jwks, "sqlite://"+filepath.Join(dir, "revocations.db"))
	return harness.ModuleFilter(harness.WriteFile(t, dir, "config.yaml", config)), "http://" + address
}

const extAuthz = `{name: envoy.filters.http.ext_authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, transport_api_version: V3, encode_raw_headers: false, grpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 5s}}}`

// jwtAuthn returns Envoy's own filter. more are further fields of its provider.
func (w *world) jwtAuthn(more string) string {
	return fmt.Sprintf(`{name: envoy.filters.http.jwt_authn, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, providers: {p: {issuer: "https://issuer.example.com", audiences: [api], local_jwks: {inline_string: %q}, claim_to_headers: [{header_name: x-jwt-sub, claim_name: sub}]%s}}, rules: [{match: {prefix: /}, requires: {provider_name: p}}]}}`,
		w.issuer.JWKS(), more)
}

// envoyConfig returns a configuration with the HTTP filter, if any, and a cluster for
// target, if any. Its workers have equally many connections, so that the rows do not
// differ by chance.
func envoyConfig(filter, target string) string {
	filters := ""
	if filter != "" {
		filters = filter + ", "
	}
	clusters := ""
	if target != "" {
		address := "{socket_address: {address: 127.0.0.1, port_value: " + target[strings.LastIndexByte(target, ':')+1:] + "}}"
		if path, unix := strings.CutPrefix(target, "unix://"); unix {
			address = "{pipe: {path: " + path + "}}"
		}
		clusters = `{name: authz, connect_timeout: 1s, load_assignment: {cluster_name: authz, endpoints: [{lb_endpoints: [{endpoint: {address: ` + address + `}}]}]},
    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}}`
	}
	return fmt.Sprintf(`
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    connection_balance_config: {exact_balance: {}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: ok}}}]}]}
          http_filters: [%s{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters: [%s]
`, filters, clusters)
}

// envoySection compares authorization of tokens that were seen before.
func envoySection(b *testing.B, w *world) string {
	all, taken, memory := w.passages(b, situation{workers: 1})
	return passageTable("16 in flight, 1 worker", all, taken, memory) + fmt.Sprintf(
		"\nIn process, authorization adds **%.2f** of what it adds with the stock no-op (goal: at most 0.20), and **%.2f** of what it adds with jwt_authn without its cache (goal: at most 0.50).\n",
		ratioOf(taken, added(withModule), added(withNoop)), ratioOf(taken, added(withModule), added(withJWT)))
}

// envoyColdSection compares authorization of tokens that are new in each round.
func envoyColdSection(b *testing.B, w *world) string {
	const tokens = 6000
	all, taken, memory := w.passages(b, situation{workers: 1, cold: tokens})
	return passageTable(fmt.Sprintf("%d new tokens a round, 16 in flight, 1 worker", tokens), all, taken, memory) + fmt.Sprintf(
		"\nIn process, a request costs **%.2f** of what it costs through ext_authz to jwt-bouncer (goal: at most 1).\n",
		ratioOf(taken, both(withModule), both(withProduct)))
}

// envoyLowSection is envoySection for an Envoy that has little to do.
func envoyLowSection(b *testing.B, w *world) string {
	const rate = 1700
	all, taken, memory := w.passages(b, situation{workers: 1, rate: rate})
	return passageTable(fmt.Sprintf("%d requests/s, 1 worker", rate), all, taken, memory) + modest(taken)
}

// envoyTwoSection is envoySection with two workers.
func envoyTwoSection(b *testing.B, w *world) string {
	all, taken, memory := w.passages(b, situation{workers: 2})
	return passageTable("16 in flight, 2 workers", all, taken, memory) + modest(taken)
}

func modest(taken [][]passage) string {
	return fmt.Sprintf("\nIn process, authorization adds %.2f of what it adds with the stock no-op, and %.2f of what it adds with jwt_authn without its cache.\n",
		ratioOf(taken, added(withModule), added(withNoop)), ratioOf(taken, added(withModule), added(withJWT)))
}

// situation is a kind of traffic through Envoy.
type situation struct {
	workers int     // of Envoy
	cold    int     // number of new tokens for each row and round; 0: 50 tokens that were seen before
	rate    float64 // requests per second; 0: as many as are answered
}

// inEnvoy is the number of requests in flight through Envoy.
const inEnvoy = 16

// passage holds the measurements of one row in one round. The CPU time of the sample is
// Envoy's.
type passage struct {
	sample
	server time.Duration // CPU time of the ext_authz server, per request
}

// passages measures all kinds of authorization in turns, and the memory that each has in
// the end, in bytes: of Envoy, and of the server.
func (w *world) passages(b *testing.B, s situation) (all []front, taken [][]passage, memory [][2]int64) {
	all = w.fronts(b, s.workers)
	known := w.checksAs(HTTPWire, "RS256", "known", 50)
	forged := Check{Wire: HTTPWire(w.token("RS256", "forged", 1)[:700])}
	drivers := make([]*Driver, len(all))
	for i, f := range all {
		d, err := NewHTTPDriver(f.addr, inEnvoy)
		require.NoError(b, err)
		b.Cleanup(func() { _ = d.Close() })
		drivers[i] = d
		// A row that lets everything pass would be the cheapest.
		forged.Allow = !f.verifies
		measure(b, f.envoy, d, Load{Duration: time.Minute, Checks: 50, InFlight: inEnvoy, Source: InTurn([]Check{forged})})
		measure(b, f.envoy, d, Load{Duration: 500 * time.Millisecond, InFlight: inEnvoy, Source: InTurn(known)})
	}
	for range *rounds {
		l := Load{Duration: *length, InFlight: inEnvoy, Rate: s.rate, Source: InTurn(known)}
		if s.cold > 0 {
			l.Duration, l.Checks, l.Source = time.Minute, int64(s.cold), InTurn(w.checksAs(HTTPWire, "RS256", fmt.Sprint("new-", len(taken)), s.cold))
		}
		round := make([]passage, len(all))
		for i, f := range all {
			before := f.serverCPU(b)
			p := passage{sample: measure(b, f.envoy, drivers[i], l)}
			p.server = (f.serverCPU(b) - before) / time.Duration(p.checks)
			round[i] = p
		}
		taken = append(taken, round)
	}
	for _, f := range all {
		m := [2]int64{usage(b, f.envoy.pid).RSS}
		if f.server != nil {
			m[1] = usage(b, f.server.pid).RSS
		}
		memory = append(memory, m)
	}
	return all, taken, memory
}

// serverCPU returns the CPU time that the ext_authz server has used so far; 0 without one.
func (f front) serverCPU(t testing.TB) time.Duration {
	t.Helper()
	if f.server == nil {
		return 0
	}
	return usage(t, f.server.pid).CPU
}

func usage(t testing.TB, pid int) Usage {
	t.Helper()
	u, err := UsageOf(pid)
	require.NoError(t, err)
	return u
}

// cost is a figure of one round.
type cost func(round []passage) time.Duration

// both is the CPU time of Envoy and of the server, per request, with a kind of authorization.
func both(kind int) cost {
	return func(round []passage) time.Duration { return round[kind].cpu + round[kind].server }
}

// added is what both is more than without authorization.
func added(kind int) cost {
	return func(round []passage) time.Duration { return both(kind)(round) - both(withNothing)(round) }
}

// costOf returns the median over the rounds.
func costOf(taken [][]passage, c cost) time.Duration {
	v := make([]time.Duration, len(taken))
	for i, round := range taken {
		v[i] = c(round)
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// ratioOf returns the median of the rounds' ratios.
func ratioOf(taken [][]passage, c, to cost) float64 {
	v := make([]float64, len(taken))
	for i, round := range taken {
		v[i] = float64(c(round)) / float64(to(round))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// passageTable renders the rows as Markdown.
func passageTable(first string, all []front, taken [][]passage, memory [][2]int64) string {
	var t strings.Builder
	fmt.Fprintf(&t, "| %s | requests/s | p50 | p99.9 | Envoy CPU per request | server CPU per request | added | ratio to the no-op | memory of Envoy + server |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n", first)
	for i, f := range all {
		samples := make([]sample, len(taken))
		for r, round := range taken {
			samples[r] = round[i].sample
		}
		m := median(samples)
		server, more, ratio, space := "–", "–", "–", fmt.Sprintf("%d", memory[i][0]>>20)
		if f.server != nil {
			server = microseconds(costOf(taken, func(round []passage) time.Duration { return round[i].server }))
			space += fmt.Sprintf(" + %d", memory[i][1]>>20)
		}
		if i != withNothing {
			more, ratio = microseconds(costOf(taken, added(i))), fmt.Sprintf("%.2f", ratioOf(taken, added(i), added(withNoop)))
		}
		fmt.Fprintf(&t, "| %s | %.0f | %s | %s | %s | %s | %s | %s | %s MB |\n",
			f.name, m.perSecond, micro(m.p50), micro(m.max), microseconds(m.cpu), server, more, ratio, space)
	}
	return t.String()
}

func microseconds(d time.Duration) string { return fmt.Sprintf("%.1f µs", float64(d)/1e3) }

func TestPassageTable(t *testing.T) {
	t.Parallel()
	none, module, jwt, noop := 30*time.Microsecond, 40*time.Microsecond, 80*time.Microsecond, 100*time.Microsecond
	round := func(disturbance time.Duration) []passage {
		r := make([]passage, withNoop+1)
		for kind, cpu := range map[int]time.Duration{withNothing: none, withModule: module, withJWT: jwt, withNoop: noop} {
			r[kind].cpu = cpu + disturbance
		}
		r[withNoop].server = 30 * time.Microsecond
		return r
	}
	// A disturbance of a whole round changes no difference.
	taken := [][]passage{round(0), round(50 * time.Microsecond), round(0)}
	assert.Equal(t, 10*time.Microsecond, costOf(taken, added(withModule)))
	assert.InDelta(t, 0.1, ratioOf(taken, added(withModule), added(withNoop)), 1e-9)
	assert.InDelta(t, 0.2, ratioOf(taken, added(withModule), added(withJWT)), 1e-9)
	all := []front{withNothing: {name: "none"}, withModule: {name: "module"}, withJWT: {name: "jwt"}, withJWTCache: {name: "cached"}, withNoop: {name: "noop", server: &server{}}}
	got := passageTable("first", all, taken, [][2]int64{withNothing: {1 << 20}, withModule: {2 << 20}, withNoop: {3 << 20, 4 << 20}})
	assert.Contains(t, got, "| none | 0 | 0.00 ms | 0.00 ms | 30.0 µs | – | – | – | 1 MB |\n")
	assert.Contains(t, got, "| module | 0 | 0.00 ms | 0.00 ms | 40.0 µs | – | 10.0 µs | 0.10 | 2 MB |\n")
	assert.Contains(t, got, "| noop | 0 | 0.00 ms | 0.00 ms | 100.0 µs | 30.0 µs | 100.0 µs | 1.00 | 3 + 4 MB |\n")
}
