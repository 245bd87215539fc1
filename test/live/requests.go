package live

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// patience is how long a control plane may take to bring a change to its Envoy, on a
// loaded machine.
const patience = 2 * time.Minute

// Configuration returns the stanzas headers and routes of the manifests'
// configuration, k8s/base/auth-config.yaml, for harness.RigOptions.
func Configuration(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "k8s", "base", "auth-config.yaml"))
	require.NoError(t, err)
	stanzas := regexp.MustCompile(`(?m)^(headers|routes):.*\n(?:[ #-].*\n)*`).FindAllString(string(b), -1)
	require.Len(t, stanzas, 2)
	return stanzas[0] + stanzas[1]
}

// Requests sends what every platform must answer alike, to an Envoy that asks the
// first sidecar of the rig: what Decisions sends, and 503 while the sidecar is down. The
// sidecar runs again afterwards.
func Requests(t *testing.T, front *harness.Front, host string, rig *harness.Rig) {
	t.Helper()
	revoked, other := Decisions(t, front, host, rig)
	e := exchange{front, host}
	rig.Bouncer.Stop(syscall.SIGTERM, 12*time.Second)
	for range 3 { // not the first alone: Envoy first learns that the connection is gone
		r, err := e.send(t.Context(), "/orders", other...)
		require.NoError(t, err)
		assert.Equal(t, http.StatusServiceUnavailable, r.Status, "while the sidecar is down: %s", r.Body)
		assert.Nil(t, r.Upstream)
	}
	rig.Bouncer.Start(t)
	e.answer(t, http.StatusOK, "/orders", other...)
	e.answer(t, http.StatusUnauthorized, "/orders", revoked...)
}

// Decisions sends requests that are decided: 200 with the identity header, none of the
// caller's own, 401 without a token, and 401 after a revocation, which the rig's first
// sidecar is sent. It returns the headers with the revoked token, and with another.
func Decisions(t *testing.T, front *harness.Front, host string, rig *harness.Rig) (revoked, other []string) {
	t.Helper()
	e := exchange{front, host}
	token := rig.Token(map[string]any{"sub": "alice"})
	bearer := []string{"Authorization", "Bearer " + token}
	harness.Eventually(t, patience, "Envoy serves the route", func(ctx context.Context) error {
		return e.want(ctx, http.StatusOK, "/", bearer...)
	})

	r := e.answer(t, http.StatusOK, "/orders", bearer...)
	require.NotNil(t, r.Upstream, "the upstream did not answer")
	assert.Equal(t, []string{"alice"}, r.Upstream.Header["X-Jwt-Sub"], "the identity header")

	r = e.answer(t, http.StatusOK, "/orders", append(bearer, "X-Jwt-Sub", "admin", "x-jwt-sub", "root")...)
	assert.Equal(t, []string{"alice"}, r.Upstream.Header["X-Jwt-Sub"], "a spoofed identity header beside a token")
	r = e.answer(t, http.StatusOK, "/healthz", "X-Jwt-Sub", "admin")
	assert.Empty(t, r.Upstream.Header["X-Jwt-Sub"], "a spoofed identity header on a public route")

	r = e.answer(t, http.StatusUnauthorized, "/orders")
	assert.Equal(t, "application/problem+json", r.Header.Get("Content-Type"))
	assert.Contains(t, r.Header.Get("WWW-Authenticate"), "Bearer")
	assert.Nil(t, r.Upstream)

	rig.Revoke(t, map[string]any{"token": token})
	r = e.answer(t, http.StatusUnauthorized, "/orders", bearer...)
	assert.Nil(t, r.Upstream)
	other = []string{"Authorization", "Bearer " + rig.Token(map[string]any{"sub": "bob"})}
	e.answer(t, http.StatusOK, "/orders", other...)
	return bearer, other
}

// exchange sends requests to a host behind an Envoy.
type exchange struct {
	front *harness.Front
	host  string
}

func (e exchange) send(ctx context.Context, path string, header ...string) (harness.Reply, error) {
	return e.front.DoAs(ctx, e.host, http.MethodGet, path, header...)
}

func (e exchange) want(ctx context.Context, status int, path string, header ...string) error {
	r, err := e.send(ctx, path, header...)
	if err == nil && r.Status != status {
		err = fmt.Errorf("status %d: %s", r.Status, r.Body)
	}
	return err
}

// answer returns the first reply other than 503, whose status must be the given one.
// A check that takes longer than the platform's timeout, on a loaded machine, is
// answered with 503.
func (e exchange) answer(t *testing.T, status int, path string, header ...string) harness.Reply {
	t.Helper()
	var r harness.Reply
	harness.Eventually(t, patience, "an answer other than 503", func(ctx context.Context) (err error) {
		if r, err = e.send(ctx, path, header...); err == nil && r.Status == http.StatusServiceUnavailable {
			err = fmt.Errorf("status 503: %s", r.Body)
		}
		return err
	})
	require.Equalf(t, status, r.Status, "GET %s: %s", path, r.Body)
	return r
}
