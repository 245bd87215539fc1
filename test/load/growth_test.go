package load

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// growthSection measures the cost of more tokens, routes and issuers.
func growthSection(b *testing.B, w *world) string {
	hot := w.checks("ES256", "hot", 100)
	wide := w.checks("ES256", "wide", 50_000)
	plain := w.product(b, "", "", "")
	// 50 000 tokens do not fit into the default token_cache.max_bytes. Sent in
	// turn, each has been evicted when it is sent again.
	small, seen := w.product(b, "", "", ""), w.product(b, "", "", "token_cache: {max_bytes: 536870912}\n")
	start := time.Now()
	fresh := w.product(b, "", "", "")
	ready := time.Since(start)
	fresh.stop()
	r := seen.driver(b, 4).Run(context.Background(), Load{Duration: time.Minute, Checks: int64(len(wide)), InFlight: 32, Source: InTurn(wide)})
	require.Equalf(b, int64(len(wide)), r.Checks, "%d of %d tokens were checked", r.Checks, len(wide))
	rows := compare(b, []contender{
		{"100 tokens seen, 1 route, 1 issuer", plain, InTurn(hot)},
		{"50 000 tokens seen, token_cache.max_bytes 512 MB", seen, InTurn(wide)},
		{"50 000 tokens in turn, more than the default 64 MB hold", small, InTurn(wide)},
		{"100 routes, the last matches", w.product(b, "", "", routes(100)), InTurn(hot)},
		{"1000 routes, the last matches", w.product(b, "", "", routes(1000)), InTurn(hot)},
		{"50 issuers", w.issuers(b, 50), InTurn(hot)},
	}, 0, closed())
	text := table("ES256, token seen before", rows)

	// 5,000 users, each with their own token and one request per second.
	before := usage(b, plain.pid)
	d := plain.driver(b, 16)
	r = d.Run(context.Background(), Load{Duration: 2 * *length, InFlight: 5000, Rate: 5000, Source: InTurn(wide[:5000])})
	after := usage(b, plain.pid)
	require.Zero(b, r.Errors, "5000 users: RPC errors")
	text += fmt.Sprintf("\n5 000 users, each with a token of its own (new at first) and a request every second: %.0f checks/s, p50 %s, p99 %s, %d of %d answered otherwise than expected, no RPC error, %.1f µs server CPU per check, peak memory %d MB.\n",
		r.PerSecond(), micro(r.Quantile(0.5)), micro(r.Quantile(0.99)), r.Wrong, r.Checks, float64(after.CPU-before.CPU)/float64(r.Checks)/1e3, after.Peak>>20)
	return text + fmt.Sprintf("\nFrom start to ready (SQLite, key set from a file): %d ms.\n", ready.Milliseconds())
}

// routes returns a configuration with n routes. The checks match the last one.
func routes(n int) string {
	var b strings.Builder
	b.WriteString("routes:\n")
	for i := range n - 1 {
		fmt.Fprintf(&b, "- {name: r%d, match: {paths: [{prefix: /service-%d}]}, audiences: [other]}\n", i, i)
	}
	b.WriteString("- {name: last, match: {paths: [{prefix: /api}]}}\n")
	return b.String()
}

// issuers starts the product with n issuers. The checks' tokens are from the
// last one.
func (w *world) issuers(t testing.TB, n int) *server {
	t.Helper()
	var b strings.Builder
	for i := range n - 1 {
		other := authztest.NewIssuer(authztest.Offline(), authztest.Named(fmt.Sprintf("https://issuer-%d.example.com", i)))
		fmt.Fprintf(&b, "- {issuer: https://issuer-%d.example.com, audiences: [api], jwks: %s}\n", i, harness.WriteFile(t, w.dir, fmt.Sprintf("jwks-%d.json", i), string(other.JWKS())))
	}
	return w.productWith(t, b.String())
}
