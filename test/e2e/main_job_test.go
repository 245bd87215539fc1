package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// maxStaleness is max_staleness in tests that wait for it.
const maxStaleness = 4 * time.Second

// installations are the supported combinations of store, Redis and mode.
var installations = []struct {
	name string
	o    harness.RigOptions
}{
	{"sqlite, replica", harness.RigOptions{}},
	{"sqlite, lookup", harness.RigOptions{Lookup: true}},
	{"postgres, replica", harness.RigOptions{Postgres: true}},
	{"postgres, lookup", harness.RigOptions{Postgres: true, Lookup: true}},
	{"postgres and redis, replica", harness.RigOptions{Postgres: true, Redis: true}},
	{"postgres and redis, lookup", harness.RigOptions{Postgres: true, Redis: true, Lookup: true}},
}

// TestMainJob checks in every installation that the product does its job: valid
// tokens are allowed, all others are denied, and a revoked token is denied.
func TestMainJob(t *testing.T) {
	t.Parallel()
	for _, in := range installations {
		t.Run(in.name, func(t *testing.T) {
			t.Parallel()
			in.o.MaxStaleness, in.o.SyncInterval = maxStaleness, time.Second
			r := harness.NewRig(t, in.o)
			good := r.Token(nil)
			checks := []struct {
				name   string
				header []string
				status int
				scheme string // part of WWW-Authenticate
			}{
				{"valid", []string{"Authorization", "Bearer " + good}, 200, ""},
				{"none", nil, 401, "Bearer"},
				{"tampered", []string{"Authorization", "Bearer " + r.Issuer.Mint(nil, authztest.Tampered())}, 401, `error="invalid_token"`},
				{"signed with another key", []string{"Authorization", "Bearer " + r.Issuer.Mint(nil, authztest.With(authztest.NewKey("ES256")))}, 401, `error="invalid_token"`},
				{"expired", []string{"Authorization", "Bearer " + r.Issuer.Mint(nil, authztest.Lifetime(-time.Hour))}, 401, `error="invalid_token"`},
				{"wrong audience", []string{"Authorization", "Bearer " + r.Token(map[string]any{"aud": "other"})}, 401, `error="invalid_token"`},
				{"two Authorization headers", []string{"Authorization", "Bearer " + good, "Authorization", "Bearer " + good}, 400, `error="invalid_request"`},
				{"comma-joined", []string{"Authorization", "Bearer " + good + ", Bearer " + good}, 400, `error="invalid_request"`},
			}
			for _, c := range checks {
				reply := r.Front.Get(t, append(c.header, "X-Jwt-Sub", "spoofed", "X-Jwt-Iss", "spoofed")...)
				assert.Equalf(t, c.status, reply.Status, "%s: status: %s", c.name, reply.Body)
				got := reply.Header.Get("WWW-Authenticate")
				assert.Containsf(t, got, c.scheme, "%s: WWW-Authenticate %q does not contain %q", c.name, got, c.scheme)
				if c.status != 200 {
					assert.Nilf(t, reply.Upstream, "%s: the request reached the upstream", c.name)
					continue
				}
				require.NotNilf(t, reply.Upstream, "%s: the request did not reach the upstream", c.name)
				if got := reply.Upstream.Header["X-Jwt-Sub"]; len(got) != 1 || got[0] != "user-1" {
					t.Errorf("%s: the upstream received x-jwt-sub %q", c.name, got)
				}
				if got := reply.Upstream.Header["X-Jwt-Iss"]; len(got) != 1 || got[0] != r.Issuer.Name {
					t.Errorf("%s: the upstream received x-jwt-iss %q", c.name, got)
				}
			}
			r.Revoke(t, map[string]any{"iss": r.Issuer.Name, "jti": harness.Claim(good, "jti"), "reason": "test"})
			took := r.Front.AwaitStatus(t, good, 401, maxStaleness+5*time.Second)
			t.Logf("denied %s after the receipt", took.Round(100*time.Microsecond))
			other := r.Front.Bearer(t, r.Token(nil))
			assert.Equalf(t, 200, other.Status, "another token after the revocation: status: %s", other.Body)
		})
	}
}

// TestRevokedBy revokes in every way that an operator can.
func TestRevokedBy(t *testing.T) {
	t.Parallel()
	for _, lookup := range []bool{false, true} {
		t.Run(fmt.Sprintf("lookup %t", lookup), func(t *testing.T) {
			t.Parallel()
			r := harness.NewRig(t, harness.RigOptions{Postgres: true, Redis: true, Lookup: lookup, MaxStaleness: maxStaleness, SyncInterval: time.Second, Revocation: "claims: [tenant_id]"})
			iss := r.Issuer.Name
			// A revocation by sub or iss matches tokens issued strictly before it.
			old := time.Now().Add(-2 * time.Second).Unix()
			ways := []struct {
				name   string
				claims map[string]any
				revoke func(t *testing.T, token string)
			}{
				{"API, jti", nil, func(t *testing.T, token string) {
					r.Revoke(t, map[string]any{"iss": iss, "jti": harness.Claim(token, "jti")})
				}},
				{"API, sub", map[string]any{"sub": "by-sub", "iat": old}, func(t *testing.T, _ string) {
					r.Revoke(t, map[string]any{"iss": iss, "sub": "by-sub"})
				}},
				{"API, sid", map[string]any{"sid": "session-1"}, func(t *testing.T, _ string) {
					r.Revoke(t, map[string]any{"iss": iss, "sid": "session-1"})
				}},
				{"API, client", map[string]any{"client_id": "app-1", "azp": "other", "iat": old}, func(t *testing.T, _ string) {
					r.Revoke(t, map[string]any{"client": "app-1"})
				}},
				{"CLI, an actor of a chain", map[string]any{"act": map[string]any{"sub": "gateway", "act": map[string]any{"sub": "agent-7"}}, "iat": old}, func(t *testing.T, _ string) {
					res := harness.Run(t, "", "revoke", "--config", r.Bouncer.Config, "--actor=agent-7")
					require.Zerof(t, res.Code, "exit code %d\n%s%s", res.Code, res.Stdout, res.Stderr)
				}},
				{"CLI, configured claim", map[string]any{"tenant_id": 17, "iat": old}, func(t *testing.T, _ string) {
					res := harness.Run(t, "", "revoke", "--config", r.Bouncer.Config, "--claim=tenant_id=17")
					require.Zerof(t, res.Code, "exit code %d\n%s%s", res.Code, res.Stdout, res.Stderr)
				}},
				{"API, iss left out with one issuer", nil, func(t *testing.T, token string) {
					r.Revoke(t, map[string]any{"jti": harness.Claim(token, "jti")})
				}},
				{"API, token without jti", map[string]any{"jti": nil}, func(t *testing.T, token string) {
					r.Revoke(t, map[string]any{"token": token})
				}},
				{"API, two at once", nil, func(t *testing.T, token string) {
					r.Revoke(t, []map[string]any{{"jti": "another"}, {"jti": harness.Claim(token, "jti")}})
				}},
				{"CLI, jti", nil, func(t *testing.T, token string) {
					res := harness.Run(t, "", "revoke", "--config", r.Bouncer.Config, "--iss="+iss, "--jti="+harness.Claim(token, "jti"))
					require.Zerof(t, res.Code, "exit code %d\n%s%s", res.Code, res.Stdout, res.Stderr)
				}},
				{"plain SQL", nil, func(t *testing.T, token string) {
					r.PG.Exec(t, "insert into authz.revocations (kind, iss, value) values (1, $1, $2)", iss, harness.Claim(token, "jti"))
				}},
			}
			for _, d := range ways {
				t.Run(d.name, func(t *testing.T) {
					token, other := r.Token(d.claims), r.Token(map[string]any{"sub": "bystander"})
					for _, tok := range []string{token, other} {
						// On a busy machine a lookup may take longer than a check, which
						// is then answered with 503: try again.
						r.Front.AwaitStatus(t, tok, 200, 5*time.Second)
					}
					d.revoke(t, token)
					took := r.Front.AwaitStatus(t, token, 401, maxStaleness+5*time.Second)
					t.Logf("denied %s after the receipt", took.Round(100*time.Microsecond))
					got := r.Front.Bearer(t, other)
					assert.Falsef(t, got.Status != 200 && got.Status != 503, "a bystander's token: status %d: %s", got.Status, got.Body)
					r.Front.AwaitStatus(t, other, 200, 5*time.Second)
				})
			}
		})
	}
}

// TestRevokeEverything is the drill of docs/operations.md.
func TestRevokeEverything(t *testing.T) {
	t.Parallel()
	for _, in := range installations {
		t.Run(in.name, func(t *testing.T) {
			t.Parallel()
			second := authztest.StartIssuer(t, authztest.Named("https://second.example"))
			in.o.MaxStaleness, in.o.SyncInterval = maxStaleness, time.Second
			in.o.Issuers = fmt.Sprintf("  - {issuer: %s, audiences: [api], jwks: %q}\n", second.Name, second.JWKSURL())
			r := harness.NewRig(t, in.o)
			old := map[string]any{"iat": time.Now().Add(-2 * time.Second).Unix()}
			before := []string{r.Token(old), second.Mint(old), r.Token(map[string]any{"iat": old["iat"], "jti": nil, "sub": nil})}
			for _, token := range before {
				r.Front.AwaitStatus(t, token, 200, 5*time.Second)
			}
			refused := harness.Run(t, "", "revoke", "--config", r.Bouncer.Config, "--all-issuers")
			require.Equal(t, 2, refused.Code, "without --yes: %s", refused.Stderr)
			for _, token := range before {
				r.Front.AwaitStatus(t, token, 200, 5*time.Second)
			}
			res := harness.Run(t, "", "revoke", "--config", r.Bouncer.Config, "--all-issuers", "--yes", "--reason=drill")
			require.Zerof(t, res.Code, "%s%s", res.Stdout, res.Stderr)
			for _, token := range before {
				r.Front.AwaitStatus(t, token, 401, maxStaleness+5*time.Second)
			}
			later := map[string]any{"iat": time.Now().Add(2 * time.Second).Unix()} // within the leeway for clocks
			for _, token := range []string{r.Token(later), second.Mint(later)} {
				r.Front.AwaitStatus(t, token, 200, 5*time.Second)
			}
			list := harness.Run(t, "", "revocations", "list", "--config", r.Bouncer.Config, "--kind=all_issuers")
			require.Contains(t, list.Stdout, "drill")
		})
	}
}

func TestSpoofedHeadersInTheProduct(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{Config: `
headers: {claims: {x-jwt-sub: sub, x-jwt-iss: iss, x-jwt-email: email}, forward_authorization: false}
routes:
  - {name: public, match: {paths: [{prefix: /public}]}, public: true}
  - {name: rest}
`})
	spoof := []string{"X-Jwt-Sub", "admin", "X-Jwt-Sub", "root", "x-jwt-iss", "admin", "X-Jwt-Email", "admin@example"}
	reply, err := r.Front.Do(t.Context(), http.MethodGet, "/public/x", spoof...)
	require.NoErrorf(t, err, "public route: %d %s", reply.Status, reply.Body)
	require.NotNilf(t, reply.Upstream, "public route: %v %d %s", err, reply.Status, reply.Body)
	for _, h := range []string{"X-Jwt-Sub", "X-Jwt-Iss", "X-Jwt-Email"} {
		got := reply.Upstream.Header[h]
		assert.Emptyf(t, got, "public route: %s reached the upstream as %q", h, got)
	}
	reply = r.Front.Get(t, append([]string{"Authorization", "Bearer " + r.Token(nil)}, spoof...)...)
	require.NotNilf(t, reply.Upstream, "valid token: status %d %s", reply.Status, reply.Body)
	for h, want := range map[string]string{"X-Jwt-Sub": "user-1", "X-Jwt-Iss": r.Issuer.Name, "X-Jwt-Email": "", "Authorization": ""} {
		got := strings.Join(reply.Upstream.Header[h], "|")
		assert.Equalf(t, want, got, "valid token: %s reached the upstream as %q", h, got)
	}
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{})
	before := r.Token(nil)
	oldKey := r.Issuer.Key("")
	got := r.Front.Bearer(t, before)
	require.Equalf(t, 200, got.Status, "before rotation: %s", got.Body)
	r.Issuer.Rotate("ES256")
	if after := r.Token(nil); r.Front.Bearer(t, after).Status != 200 {
		// An unknown kid makes the sidecar fetch keys, but not within the cooldown
		// of an earlier fetch.
		r.Front.AwaitStatus(t, after, 200, 20*time.Second)
	}
	got = r.Front.Bearer(t, before)
	assert.Equalf(t, 200, got.Status, "a token signed with the old key, which is still published: %s", got.Body)
	r.Issuer.Withdraw(oldKey.ID)
	r.Issuer.Rotate("ES256")
	r.Front.AwaitStatus(t, r.Token(nil), 200, 20*time.Second)
	r.Front.AwaitStatus(t, before, 401, 20*time.Second)
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir := harness.Dir(t)
	r := harness.NewRig(t, harness.RigOptions{Bouncer: harness.BouncerOptions{GRPC: "unix://" + dir + "/authz.sock"}})
	got := r.Front.Bearer(t, r.Token(nil))
	require.Equalf(t, 200, got.Status, "status %d %s", got.Status, got.Body)
	// A killed sidecar leaves its socket behind; the next one replaces it.
	r.Bouncer.Kill()
	r.Bouncer.Start(t)
	r.Front.AwaitStatus(t, r.Token(nil), 200, 10*time.Second)
}

// TestDeniedGRPCCall: a gRPC client receives a gRPC status.
func TestDeniedGRPCCall(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{Front: harness.FrontOptions{UpstreamH2: true}})
	reply := r.Front.Get(t, "Content-Type", "application/grpc", "TE", "trailers")
	assert.Equalf(t, "16", reply.Header.Get("Grpc-Status"), "grpc-status, want 16 (UNAUTHENTICATED); HTTP status %d, headers %v", reply.Status, reply.Header)
	assert.Nil(t, reply.Upstream, "the call reached the upstream")
}

func TestProblemBody(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{})
	reply := r.Front.Get(t)
	assert.Equal(t, "application/problem+json", reply.Header.Get("Content-Type"), "Content-Type")
	var problem map[string]any
	assert.NoErrorf(t, json.Unmarshal([]byte(reply.Body), &problem), "body %q", reply.Body)
}

// TestDrain sends SIGTERM under load. No answer is wrong, and the process ends
// with 0 within ten seconds.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{Postgres: true, Redis: true})
	good, bad := r.Token(nil), r.Issuer.Mint(nil, authztest.Tampered())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type answer struct {
		token  string
		status int
	}
	answers := make(chan answer, 100_000)
	done := make(chan struct{})
	for i := range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				token := good
				if i%2 == 1 {
					token = bad
				}
				if reply, err := r.Front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+token); err == nil {
					answers <- answer{token, reply.Status}
				}
			}
		}()
	}
	harness.Eventually(t, 30*time.Second, "200 answers under load", func(context.Context) error {
		if n := len(answers); n < 200 {
			return fmt.Errorf("%d answers", n)
		}
		return nil
	})
	require.NoError(t, r.Bouncer.Signal(syscall.SIGTERM))
	code, err := r.Bouncer.ExitCode(10 * time.Second)
	if assert.NoErrorf(t, err, "exit code %d; want 0 within 10 s", code) {
		assert.Zerof(t, code, "exit code %d, %v; want 0 within 10 s", code, err)
	}
	cancel()
	for range 8 {
		<-done
	}
	close(answers)
	counts := map[string]int{}
	for a := range answers {
		kind := "good"
		if a.token == bad {
			kind = "forged"
		}
		counts[fmt.Sprintf("%s %d", kind, a.status)]++
		// 403 is Envoy's own answer once the sidecar has ended.
		assert.Falsef(t, a.token == bad && a.status != 401 && a.status != 403 || a.token == good && a.status != 200 && a.status != 403, "%s token: status %d", kind, a.status)
	}
	t.Logf("answers: %v", counts)
}
