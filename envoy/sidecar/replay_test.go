package sidecar

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// holder holds the key of a DPoP-bound token.
type holder struct {
	*running
	key   *authztest.Key
	token string
	jwk   map[string]any
}

func holderOf(r *running) *holder {
	h := &holder{running: r, key: authztest.NewKey("ES256")}
	h.jwk = h.key.JWK()
	for _, member := range []string{"use", "alg", "kid"} {
		delete(h.jwk, member)
	}
	text, _ := json.Marshal(h.jwk) // sorted, as RFC 7638, section 3, requires
	sum := sha256.Sum256(text)
	h.token = r.issuer.Mint(map[string]any{"cnf": map[string]any{"jkt": authztest.Base64URL(sum[:])}})
	return h
}

func (h *holder) proof() string {
	sum := sha256.Sum256([]byte(h.token))
	head, _ := json.Marshal(map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": h.jwk})
	body, _ := json.Marshal(map[string]any{"jti": rand.Text(), "htm": "GET", "htu": "https://api.example/", "iat": time.Now().Unix(), "ath": authztest.Base64URL(sum[:])})
	input := authztest.Base64URL(head) + "." + authztest.Base64URL(body)
	return input + "." + authztest.Base64URL(h.key.Sign("ES256", []byte(input)))
}

// use presents the token with a proof.
func (h *holder) use(proof string) authz.Decision {
	h.t.Helper()
	return h.authorizer.Authorize(h.t.Context(), &authz.Request{Method: "GET", Scheme: "https", Host: "api.example", Path: "/", Headers: []authz.Header{
		{Name: "authorization", Value: "DPoP " + h.token}, {Name: "dpop", Value: proof},
	}})
}

func withRedis(s *harness.RedisServer, more string) string {
	return fmt.Sprintf("redis: {url: %q, timeout: 500ms}\n%s", s.URL, more)
}

// A sidecar remembers the proofs that it has let pass, whatever Redis forgets.
func TestUsedProofsOutliveRedis(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(t *testing.T, s *harness.RedisServer){
		"flushed": func(t *testing.T, s *harness.RedisServer) { s.Do(t, "FLUSHALL") },
		"restarted, empty": func(t *testing.T, s *harness.RedisServer) {
			s.Stop()
			s.Start(t)
		},
		"evicted": func(t *testing.T, s *harness.RedisServer) {
			for i := 0; len(s.Do(t, "KEYS", "jwt-bouncer:seen:*").([]any)) > 0; i++ {
				require.Less(t, i, 1000)
				s.Do(t, "SET", fmt.Sprint("filler", i), string(make([]byte, 64<<10)), "EX", 3600)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := harness.Redis(t, "maxmemory", "8mb", "maxmemory-policy", "volatile-ttl")
			h := holderOf(run(t, withRedis(server, "")))
			used := h.proof()
			require.Equal(t, authz.ReasonAllowed, h.use(used).Reason)
			require.Equal(t, authz.ReasonBindingMismatch, h.use(used).Reason, "by Redis")
			forget(t, server)
			require.Empty(t, server.Do(t, "KEYS", "jwt-bouncer:seen:*"), "Redis has forgotten the proof")
			harness.Eventually(t, 20*time.Second, "Redis answers", func(context.Context) error {
				if d := h.use(h.proof()); !d.Allowed() {
					return errors.New(d.Detail)
				}
				return nil
			})
			require.Equal(t, authz.ReasonBindingMismatch, h.use(used).Reason, "by the sidecar's own memory")
		})
	}
}

// While Redis is away nobody knows whether another sidecar has seen the proof.
func TestProofsWithoutRedis(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		setting string
		want    authz.Reason // for a new proof during the outage
	}{
		"default": {"", authz.ReasonRevocationUnknown},
		"deny":    {"binding: {dpop: {on_replay_unknown: deny}}", authz.ReasonRevocationUnknown},
		"allow":   {"binding: {dpop: {on_replay_unknown: allow}}", authz.ReasonAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := harness.Redis(t)
			h := holderOf(run(t, withRedis(server, c.setting)))
			used := h.proof()
			require.Equal(t, authz.ReasonAllowed, h.use(used).Reason)
			server.Stop()
			late := h.proof()
			d := h.use(late)
			require.Equal(t, c.want, d.Reason, d.Detail)
			if c.want == authz.ReasonAllowed {
				assert.Equal(t, authz.ReasonBindingMismatch, h.use(used).Reason, "used while Redis was there")
				assert.Equal(t, authz.ReasonBindingMismatch, h.use(late).Reason, "used while Redis was away")
			}
			server.Start(t)
			harness.Eventually(t, 20*time.Second, "Redis answers", func(ctx context.Context) error {
				_, err := h.redis.Seen(ctx, rand.Text(), time.Second)
				return err
			})
			again := authz.ReasonAllowed // the denied request was no use
			if c.want == authz.ReasonAllowed {
				again = authz.ReasonBindingMismatch
			}
			assert.Equal(t, again, h.use(late).Reason, "after the outage")
			assert.Equal(t, authz.ReasonBindingMismatch, h.use(used).Reason, "after the outage")
		})
	}
}
