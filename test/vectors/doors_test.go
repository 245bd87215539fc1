package vectors

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// seconds is how long a token may take from its minting to its decision.
const seconds = 20

// TestTokensThroughDoors sends the tokens of TestTokens through Envoy with ext_authz, and with the
// dynamic module: both decide as the vectors say. Their times are moved to the machine's
// clock. Left out are what no request can carry, and what a few seconds change.
func TestTokensThroughDoors(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	list, err := load("testdata/tokens/*.txt", tokenDirectives...)
	require.NoError(t, err)
	k := newKeys()
	later := newVerifier(t, k, stopped(seconds))
	dir := harness.Dir(t)
	main := harness.WriteFile(t, dir, "main.json", string(k.set()))
	other := harness.WriteFile(t, dir, "other.json", string(authztest.KeySet(authztest.NewKey("ES256"))))
	config := fmt.Sprintf(`issuers:
  - {issuer: %[1]q, audiences: [api], jwks: %[2]s, leeway: 30s}
  - {issuer: "https://other.test", audiences: [api], jwks: %[3]s, leeway: 30s}
  - {issuer: "https://only-ed.test", audiences: [api], jwks: %[2]s, leeway: 30s, algorithms: [EdDSA]}
  - {issuer: "https://id.test", audiences: [api], jwks: %[2]s, leeway: 30s, accept_id_tokens: on}
store: sqlite://%[4]s/revocations.db
headers: {claims: {x-jwt-iss: iss}}
`, issuerName, main, other, dir)
	upstream := harness.Upstream(t)
	_, module := harness.Module(t, config, upstream.Addr)
	asking := harness.NewFront(t, harness.Bouncer(t, config).GRPC, upstream.Addr, harness.FrontOptions{Timeout: 5 * time.Second})
	sent, timed := 0, 0
	for _, s := range list {
		raw, err := build(s, k)
		require.NoError(t, err)
		if strings.ContainsAny(raw, "\r\n\x00") || strings.TrimSpace(raw) != raw {
			continue
		}
		if outcome, _ := judge(t, later, raw, now+seconds); outcome != s.expect {
			timed++
			continue
		}
		raw, err = buildAt(s, k, time.Now().Unix())
		require.NoError(t, err)
		want, challenge := bearer(t, asking, raw)
		got, same := bearer(t, module, raw)
		assert.Equal(t, s.expect == "allowed", want == http.StatusOK, "%s:%d: ext_authz: %d", s.file, s.line, want)
		assert.Equal(t, want, got, "%s:%d: module", s.file, s.line)
		assert.Equal(t, challenge, same, "%s:%d: module", s.file, s.line)
		sent++
	}
	t.Logf("%d of %d vectors, %d change within seconds", sent, len(list), timed)
	assert.Greater(t, sent, len(list)*9/10)
	assert.Less(t, timed, 10)
}

// bearer sends a request with a token as it is. A busy machine may miss the deadline of
// a decision, which is answered with 503: it tries again.
func bearer(t *testing.T, f *harness.Front, token string) (status int, challenge string) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, "a decision", func(context.Context) error {
		if status, challenge = tryBearer(t, f, token); status == http.StatusServiceUnavailable {
			return errors.New("status 503")
		}
		return nil
	})
	return status, challenge
}

func tryBearer(t *testing.T, f *harness.Front, token string) (status int, challenge string) {
	t.Helper()
	c, err := net.Dial("tcp", f.Addr("front"))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\nAuthorization: Bearer "+token+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Www-Authenticate")
}
