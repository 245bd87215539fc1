package idp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// receiver is a client of a realm that receives its events, with a sidecar that polls
// them behind a real Envoy.
type receiver struct {
	*installation
	k      *keycloak
	issuer string
}

func newReceiver(t *testing.T, k *keycloak) *receiver {
	t.Helper()
	k.admin("POST", "", map[string]any{"realm": "signals", "enabled": true, "attributes": map[string]string{"ssf.transmitterEnabled": "true"}}, nil)
	k.admin("POST", "/signals/clients", map[string]any{
		"clientId": "receiver", "secret": "a-secret-of-the-test", "publicClient": false, "serviceAccountsEnabled": true, "directAccessGrantsEnabled": true,
		"attributes": map[string]string{"ssf.enabled": "true", "ssf.defaultSubjects": "ALL", "ssf.minVerificationInterval": "1"},
	}, nil)
	var clients []struct{ ID string }
	k.admin("GET", "/signals/clients?clientId=receiver", nil, &clients)
	require.Len(t, clients, 1)
	var scopes []struct{ ID, Name string }
	k.admin("GET", "/signals/client-scopes", nil, &scopes)
	for _, s := range scopes {
		if s.Name == "ssf.read" || s.Name == "ssf.manage" {
			k.admin("PUT", "/signals/clients/"+clients[0].ID+"/default-client-scopes/"+s.ID, nil, nil)
		}
	}
	k.newUsers("signals", "alice", "bob")
	issuer := k.url + "/realms/signals"
	secret := harness.WriteFile(t, harness.Dir(t), "secret", "a-secret-of-the-test\n")
	i := install(t, fmt.Sprintf(`issuers:
  - {issuer: %q, audiences: [account]}
event_streams:
  - {transmitter: %q, token_url: "%s/protocol/openid-connect/token", client_id: receiver, client_secret_file: %q, interval: 1s}
`, issuer, issuer, issuer, secret))
	i.awaitReady()
	return &receiver{i, k, issuer}
}

func (r *receiver) signIn(user string) string {
	r.t.Helper()
	return r.k.token("signals", url.Values{"grant_type": {"password"}, "client_id": {"receiver"}, "client_secret": {"a-secret-of-the-test"}, "username": {user}, "password": {"x"}, "scope": {"openid"}})
}

// streams runs a streams command, which must exit with code.
func (r *receiver) streams(code int, args ...string) string {
	r.t.Helper()
	out := harness.Run(r.t, "", append([]string{"streams", "--config", r.sidecar.Config}, args...)...)
	require.Equalf(r.t, code, out.Code, "streams %v: %s%s", args, out.Stdout, out.Stderr)
	return out.Stdout
}

func (r *receiver) awaitState(want, says string) {
	r.t.Helper()
	harness.Eventually(r.t, 60*time.Second, "the stream is "+want, func(context.Context) error {
		out := harness.Run(r.t, "", "health", "--config", r.sidecar.Config, "-o", "json")
		var h struct {
			Parts []struct{ Name, State, Reason string }
		}
		if err := json.Unmarshal([]byte(out.Stdout), &h); err != nil {
			return err
		}
		for _, p := range h.Parts {
			if p.Name == "events "+r.issuer && p.State == want && strings.Contains(p.Reason, says) {
				return nil
			}
		}
		return errors.New(out.Stdout)
	})
}

// keycloakEventStreams requires that Keycloak, an independent transmitter of the
// Shared Signals Framework, is discovered, and its stream created and verified. A
// session that its administrator ends is denied by an event that is polled.
func keycloakEventStreams(t *testing.T, k *keycloak) {
	r := newReceiver(t, k)
	r.awaitState("degraded", "has not been polled yet")
	var stream struct {
		ID string `json:"stream_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.streams(0, "create", "-o", "json")), &stream))
	r.streams(1, "create") // one stream for each receiver
	r.streams(0, "verify", "--wait", "60s")
	r.awaitState("ok", "")

	alice, bob := r.signIn("alice"), r.signIn("bob")
	r.allowed("alice", alice)
	var users []struct{ ID string }
	k.admin("GET", "/signals/users?username=alice&exact=true", nil, &users)
	require.Len(t, users, 1)
	k.admin("POST", "/signals/users/"+users[0].ID+"/logout", nil, nil)
	r.soon("alice is logged out", alice, 401)
	r.allowed("bob", bob)

	r.streams(0, "status", "--set", "paused", "--reason", "a test")
	r.awaitState("degraded", "paused")
	r.streams(3, "status")
	r.streams(0, "status", "--set", "enabled")
	r.awaitState("ok", "")
	r.streams(0, "update", "--description", "of the test")
	r.streams(0, "delete", stream.ID)
	r.streams(1, "status", stream.ID)
}
