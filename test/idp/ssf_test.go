//go:build keycloak

package idp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

// receiver is a client of a realm that receives its events, with a sidecar that polls
// them behind a real Envoy.
type receiver struct {
	*keycloak
	realm, issuer string
	sidecar       *harness.BouncerServer
	front         *harness.Front
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	k := newKeycloak(t)
	r := &receiver{keycloak: k, realm: fmt.Sprint("signals-", time.Now().UnixNano())}
	r.issuer = *keycloakURL + "/realms/" + r.realm
	k.admin("POST", "", map[string]any{"realm": r.realm, "enabled": true, "attributes": map[string]string{"ssf.transmitterEnabled": "true"}}, nil)
	t.Cleanup(func() { k.admin("DELETE", "/"+r.realm, nil, nil) })
	k.admin("POST", "/"+r.realm+"/clients", map[string]any{
		"clientId": "receiver", "secret": "a-secret-of-the-test", "publicClient": false, "serviceAccountsEnabled": true, "directAccessGrantsEnabled": true,
		"attributes": map[string]string{"ssf.enabled": "true", "ssf.defaultSubjects": "ALL", "ssf.minVerificationInterval": "1"},
	}, nil)
	var clients []struct{ ID string }
	k.admin("GET", "/"+r.realm+"/clients?clientId=receiver", nil, &clients)
	var scopes []struct{ ID, Name string }
	k.admin("GET", "/"+r.realm+"/client-scopes", nil, &scopes)
	for _, s := range scopes {
		if s.Name == "ssf.read" || s.Name == "ssf.manage" {
			k.admin("PUT", "/"+r.realm+"/clients/"+clients[0].ID+"/default-client-scopes/"+s.ID, nil, nil)
		}
	}
	for _, user := range []string{"alice", "bob"} {
		k.admin("POST", "/"+r.realm+"/users", map[string]any{"username": user, "enabled": true, "email": user + "@example.com", "emailVerified": true, "firstName": user, "lastName": "x",
			"credentials": []map[string]any{{"type": "password", "value": "x", "temporary": false}}}, nil)
	}
	secret := harness.WriteFile(t, harness.Dir(t), "secret", "a-secret-of-the-test\n")
	r.sidecar = harness.Bouncer(t, fmt.Sprintf(`issuers:
  - {issuer: %q, audiences: [account]}
store: "sqlite://%s/r.db"
event_streams:
  - {transmitter: %q, token_url: "%s/protocol/openid-connect/token", client_id: receiver, client_secret_file: %q, interval: 1s}
`, r.issuer, harness.Dir(t), r.issuer, r.issuer, secret))
	r.front = harness.NewFront(t, r.sidecar.GRPC, harness.Upstream(t).Addr)
	return r
}

func (r *receiver) signIn(user string) string {
	r.t.Helper()
	return r.token(r.realm, url.Values{"grant_type": {"password"}, "client_id": {"receiver"}, "client_secret": {"a-secret-of-the-test"}, "username": {user}, "password": {"x"}, "scope": {"openid"}})
}

// streams runs a streams command, which must exit with code.
func (r *receiver) streams(code int, args ...string) string {
	r.t.Helper()
	out := harness.Run(r.t, "", append([]string{"streams", "--config", r.sidecar.Config}, args...)...)
	if out.Code != code {
		r.t.Fatalf("streams %v: exit code %d\n%s%s", args, out.Code, out.Stdout, out.Stderr)
	}
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

// TestSharedSignals: a real Keycloak, an independent transmitter of the Shared Signals
// Framework, is discovered, and its stream created and verified. A session that its
// administrator ends is denied at a real Envoy, by an event that is polled.
func TestSharedSignals(t *testing.T) {
	r := newReceiver(t)
	r.awaitState("degraded", "has not been polled yet")
	var stream struct {
		ID        string   `json:"stream_id"`
		Delivered []string `json:"events_delivered"`
	}
	if err := json.Unmarshal([]byte(r.streams(0, "create", "-o", "json")), &stream); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s delivers %v", stream.ID, stream.Delivered)
	r.streams(1, "create") // one stream for each receiver
	t.Log(r.streams(0, "verify", "--wait", "60s"))
	r.awaitState("ok", "")

	alice, bob := r.signIn("alice"), r.signIn("bob")
	for user, token := range map[string]string{"alice": alice, "bob": bob} {
		if got := r.front.Bearer(t, token); got.Status != 200 {
			t.Fatalf("%s: %d %s", user, got.Status, got.Header.Get("Www-Authenticate"))
		}
	}
	var users []struct{ ID string }
	r.admin("GET", "/"+r.realm+"/users?username=alice&exact=true", nil, &users)
	r.admin("POST", "/"+r.realm+"/users/"+users[0].ID+"/logout", nil, nil)
	harness.Eventually(t, 60*time.Second, "alice is denied", func(ctx context.Context) error {
		got, err := r.front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+alice)
		if err == nil && got.Status != 401 {
			err = fmt.Errorf("%d", got.Status)
		}
		return err
	})
	if got := r.front.Bearer(t, bob); got.Status != 200 {
		t.Fatalf("bob: %d %s", got.Status, got.Header.Get("Www-Authenticate"))
	}

	r.streams(0, "status", "--set", "paused", "--reason", "a test")
	r.awaitState("degraded", "paused")
	r.streams(3, "status")
	r.streams(0, "status", "--set", "enabled")
	r.awaitState("ok", "")
	r.streams(0, "update", "--description", "of the test")
	r.streams(0, "delete", stream.ID)
	r.streams(1, "status", stream.ID)
	t.Log(r.streams(0, "list"))
}
