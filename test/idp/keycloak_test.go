//go:build keycloak

package idp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

var (
	keycloakURL = flag.String("keycloak", "", "address of a Keycloak server in development mode, with the bootstrap administrator admin/admin")
	realm       = fmt.Sprint("shop-", time.Now().Unix())
)

// keycloak is an administrator's client of the server.
type keycloak struct {
	t      *testing.T
	client *http.Client
}

func (k *keycloak) send(method, path, contentType, body string, header ...string) []byte {
	k.t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(k.t.Context()), method, *keycloakURL+path, strings.NewReader(body))
	if err != nil {
		k.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := k.client.Do(req)
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		k.t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, text, err)
	}
	return text
}

func (k *keycloak) token(realm string, form url.Values) string {
	k.t.Helper()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(k.send("POST", "/realms/"+realm+"/protocol/openid-connect/token", "application/x-www-form-urlencoded", form.Encode()), &answer); err != nil {
		k.t.Fatal(err)
	}
	return answer.AccessToken
}

// admin calls the admin API and decodes the response into result, unless it is
// nil.
func (k *keycloak) admin(method, path string, body, result any) {
	k.t.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			k.t.Fatal(err)
		}
	}
	token := k.token("master", url.Values{"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {"admin"}})
	answer := k.send(method, "/admin/realms"+path, "application/json", string(text), "Authorization", "Bearer "+token)
	if result != nil {
		if err := json.NewDecoder(bytes.NewReader(answer)).Decode(result); err != nil {
			k.t.Fatalf("%s: %v %s", path, err, answer)
		}
	}
}

// TestKeycloak: a real Keycloak's messages on logout, on a pushed not-before and
// on "logout all" revoke tokens at a real Envoy.
func TestKeycloak(t *testing.T) {
	k := newKeycloak(t)
	issuer := *keycloakURL + "/realms/" + realm
	b := harness.Bouncer(t, fmt.Sprintf(`issuers:
  - {issuer: %q, audiences: [account]}
store: "sqlite://%s/r.db"
api:
  logout: {audiences: [shop]}
  keycloak: {clients: [shop]}
`, issuer, harness.Dir(t)), harness.BouncerOptions{NoWait: true})
	k.admin("POST", "", map[string]any{"realm": realm, "enabled": true}, nil)
	k.admin("POST", "/"+realm+"/clients", map[string]any{
		"clientId": "shop", "secret": "a-secret-of-the-test", "directAccessGrantsEnabled": true, "publicClient": false, "adminUrl": b.HTTP + "/keycloak",
		"attributes": map[string]string{"backchannel.logout.url": b.HTTP + "/oidc/backchannel-logout", "backchannel.logout.session.required": "true"},
	}, nil)
	for _, user := range []string{"alice", "bob"} {
		k.admin("POST", "/"+realm+"/users", map[string]any{"username": user, "enabled": true, "email": user + "@example.com", "emailVerified": true, "firstName": user, "lastName": "x",
			"credentials": []map[string]any{{"type": "password", "value": "x", "temporary": false}}}, nil)
	}
	harness.Eventually(t, 60*time.Second, "the sidecar is ready", b.Ready)
	front := harness.NewFront(t, b.GRPC, harness.Upstream(t).Addr)
	signIn := func(user string) string {
		t.Helper()
		return k.token(realm, url.Values{"grant_type": {"password"}, "client_id": {"shop"}, "client_secret": {"a-secret-of-the-test"}, "username": {user}, "password": {"x"}, "scope": {"openid"}})
	}
	passes := func(what, token string) {
		t.Helper()
		if r := front.Bearer(t, token); r.Status != 200 {
			t.Fatalf("%s: %d %s", what, r.Status, r.Header.Get("Www-Authenticate"))
		}
	}
	ends := func(what, token string) {
		t.Helper()
		harness.Eventually(t, 20*time.Second, what, func(ctx context.Context) error {
			r, err := front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+token)
			if err == nil && r.Status != 401 {
				err = errors.New(http.StatusText(r.Status))
			}
			return err
		})
	}
	var users []struct{ ID string }
	k.admin("GET", "/"+realm+"/users?username=alice&exact=true", nil, &users)
	var clients []struct{ ID string }
	k.admin("GET", "/"+realm+"/clients?clientId=shop", nil, &clients)

	alice, bob := signIn("alice"), signIn("bob")
	passes("alice", alice)
	k.admin("POST", "/"+realm+"/users/"+users[0].ID+"/logout", nil, nil)
	ends("alice is logged out (back-channel logout)", alice)
	passes("bob", bob)
	passes("alice again", signIn("alice"))

	var nodes map[string]any
	k.admin("GET", "/"+realm+"/clients/"+clients[0].ID+"/test-nodes-available", nil, &nodes)
	t.Logf("test-nodes-available: %v", nodes)
	if nodes["failedRequests"] != nil {
		t.Errorf("test-nodes-available: %v", nodes)
	}

	var pushed map[string]any
	k.admin("PUT", "/"+realm, map[string]any{"notBefore": time.Now().Unix() + 1}, nil)
	k.admin("POST", "/"+realm+"/push-revocation", nil, &pushed)
	t.Logf("push-revocation: %v", pushed)
	ends("bob's token is denied after the realm's not-before", bob)
	harness.Eventually(t, 10*time.Second, "a token issued after the not-before is allowed", func(ctx context.Context) error {
		r, err := front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+signIn("bob"))
		if err == nil && r.Status != 200 {
			err = errors.New(http.StatusText(r.Status))
		}
		return err
	})

	bob = signIn("bob")
	passes("bob again", bob)
	k.admin("POST", "/"+realm+"/logout-all", nil, &pushed)
	t.Logf("logout-all: %v", pushed)
	ends("all users are logged out", bob)
	k.admin("DELETE", "/"+realm, nil, nil)
}
