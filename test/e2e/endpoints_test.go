package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// endpointsConfig enables every endpoint that accepts revocation requests.
func endpointsConfig(t *testing.T, iss *authztest.Issuer, store, extra string) string {
	t.Helper()
	dir := harness.Dir(t)
	token := harness.WriteFile(t, dir, "api-token", "operator endpoint-test-api-token\n")
	secret := harness.WriteFile(t, dir, "client-secret", "endpoint-test-client-secret\n")
	return fmt.Sprintf(`issuers:
  - {issuer: %q, audiences: [api]}
store: %q
api:
  token_file: %s
  clients: [{id: shop, secret_file: %s}]
  logout: {audiences: [shop]}
  events:
    audiences: ["https://bouncer.example/ssf"]
    subject_claims: {account: tenant, email: tenant, phone_number: tenant, did: tenant, uri: tenant, device: tenant}
  global_token_revocation: {audiences: ["https://bouncer.example/oauth2/global-token-revocation"]}
  keycloak: {clients: [shop]}
revocation: {claims: [tenant]}
%s`, iss.Name, store, token, secret, extra)
}

// send posts to an endpoint and returns status and body.
func send(t *testing.T, b *harness.BouncerServer, path, contentType, body string, header ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.HTTP+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

const (
	formType = "application/x-www-form-urlencoded"
	apiToken = "Bearer endpoint-test-api-token"
)

// TestEveryEndpoint revokes a token through each endpoint. Envoy then denies
// exactly that token, which it allowed before.
func TestEveryEndpoint(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer()
	t.Cleanup(iss.Close)
	upstream := harness.Upstream(t)
	past := time.Now().Add(-time.Minute).Unix()
	mint := func(id string) string {
		return iss.Mint(map[string]any{"sub": "user-" + id, "sid": "session-" + id, "jti": "jti-" + id, "iat": past, "client_id": "shop"})
	}
	securityEventToken := func(typ string, claims map[string]any) string {
		return iss.Mint(claims, authztest.Header("typ", typ))
	}
	event := func(name string, subject map[string]any) string {
		return securityEventToken("secevent+jwt", map[string]any{"aud": "https://bouncer.example/ssf", "sub": nil, "exp": nil, "sub_id": subject, "events": map[string]any{name: map[string]any{}}})
	}
	action := func(kind string, more map[string]any) string {
		claims := map[string]any{"iss": nil, "sub": nil, "aud": nil, "iat": nil, "exp": nil, "jti": nil,
			"id": "1", "expiration": time.Now().Add(30 * time.Second).Unix(), "resource": "shop", "action": kind}
		for k, v := range more {
			claims[k] = v
		}
		return iss.Mint(claims)
	}
	logout := map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}
	type message struct {
		path, contentType, body string
		header                  []string
		want                    int
	}
	endpoints := []struct {
		name    string
		message func(id, token string) message
	}{
		{"API, jti", func(id, _ string) message {
			return message{"/v1/revocations", "application/json", `{"jti":"jti-` + id + `"}`, []string{"Authorization", apiToken}, 201}
		}},
		{"API, sub", func(id, _ string) message {
			return message{"/v1/revocations", "application/json", `[{"sub":"user-` + id + `","reason":"left"}]`, []string{"Authorization", apiToken}, 201}
		}},
		{"API, whole token", func(_, token string) message {
			return message{"/v1/revocations", "application/json", `{"token":"` + token + `"}`, []string{"Authorization", apiToken}, 201}
		}},
		{"RFC 7009", func(_, token string) message {
			return message{"/oauth2/revoke", formType, url.Values{"token": {token}, "client_id": {"shop"}, "client_secret": {"endpoint-test-client-secret"}}.Encode(), nil, 200}
		}},
		{"back-channel logout, sid", func(id, _ string) message {
			return message{"/oidc/backchannel-logout", formType, url.Values{"logout_token": {securityEventToken("logout+jwt", map[string]any{"aud": "shop", "sub": nil, "sid": "session-" + id, "events": logout})}}.Encode(), nil, 200}
		}},
		{"back-channel logout, sub", func(id, _ string) message {
			return message{"/oidc/backchannel-logout", formType, url.Values{"logout_token": {securityEventToken("logout+jwt", map[string]any{"aud": "shop", "sub": "user-" + id, "events": logout})}}.Encode(), nil, 200}
		}},
		{"CAEP session-revoked", func(id, _ string) message {
			return message{"/ssf/events", "application/secevent+jwt", event("https://schemas.openid.net/secevent/caep/event-type/session-revoked", map[string]any{"format": "opaque", "id": "session-" + id}), nil, 202}
		}},
		{"RISC account-disabled", func(id, _ string) message {
			return message{"/ssf/events", "application/secevent+jwt", event("https://schemas.openid.net/secevent/risc/event-type/account-disabled", map[string]any{"format": "iss_sub", "iss": iss.Name, "sub": "user-" + id}), nil, 202}
		}},
		{"global token revocation, Okta's", func(id, _ string) message {
			jwt := securityEventToken("global-token-revocation+jwt", map[string]any{"aud": "https://bouncer.example/oauth2/global-token-revocation", "sub": "the-application"})
			return message{"/oauth2/global-token-revocation", "application/json", `{"sub_id":{"format":"iss_sub","iss":"` + iss.Name + `","sub":"user-` + id + `"}}`, []string{"Authorization", "Bearer " + jwt}, 204}
		}},
		{"global token revocation, API token", func(id, _ string) message {
			return message{"/oauth2/global-token-revocation", "application/json", `{"sub_id":{"format":"opaque","id":"user-` + id + `"}}`, []string{"Authorization", apiToken}, 204}
		}},
		{"Keycloak logout", func(id, _ string) message {
			return message{"/keycloak/k_logout", "text/plain", action("LOGOUT", map[string]any{"keycloakSessionIds": []string{"session-" + id}}), nil, 204}
		}},
	}
	for _, storage := range []string{"sqlite", "postgres"} {
		t.Run(storage, func(t *testing.T) {
			t.Parallel()
			store := "sqlite://" + harness.Dir(t) + "/revocations.db"
			if storage == "postgres" {
				store = harness.Postgres(t).URL
			}
			b, front := harness.BouncerAndFront(t, endpointsConfig(t, iss, store, ""), upstream.Addr)
			bystander := mint("bystander")
			for i, endpoint := range endpoints {
				id := fmt.Sprint(i)
				token := mint(id)
				r := front.Bearer(t, token)
				require.Equalf(t, 200, r.Status, "%s: before the revocation: %s", endpoint.name, r.Body)
				m := endpoint.message(id, token)
				status, body := send(t, b, m.path, m.contentType, m.body, m.header...)
				require.Equalf(t, m.want, status, "%s: %s", endpoint.name, body)
				harness.Eventually(t, 10*time.Second, "the token revoked by "+endpoint.name+" is denied", func(ctx context.Context) error {
					r, err := front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+token)
					if err != nil {
						return err
					}
					if r.Status != 401 || !strings.Contains(r.Header.Get("Www-Authenticate"), "invalid_token") {
						return fmt.Errorf("status %d", r.Status)
					}
					return nil
				})
				r = front.Bearer(t, bystander)
				require.Equalf(t, 200, r.Status, "%s: another user's token: %s", endpoint.name, r.Body)
			}
			// A not-before of the realm revokes exactly the tokens issued earlier.
			status, body := send(t, b, "/keycloak/k_push_not_before", "text/plain", action("PUSH_NOT_BEFORE", map[string]any{"notBefore": time.Now().Add(-10 * time.Second).Unix()}))
			require.Equalf(t, 204, status, "Keycloak not-before: %s", body)
			harness.Eventually(t, 10*time.Second, "the bystander is denied", func(ctx context.Context) error {
				r, err := front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+bystander)
				if err == nil && r.Status != 401 {
					err = fmt.Errorf("status %d", r.Status)
				}
				return err
			})
			require.Equal(t, 200, front.Bearer(t, iss.Mint(map[string]any{"sub": "somebody"})).Status, "a token issued after the not-before")
			checkListed(t, b, len(endpoints)+2) // an opaque subject is revoked both as sid and as sub
		})
	}
}

// checkListed checks that the API lists n revocations, each with an actor.
func checkListed(t *testing.T, b *harness.BouncerServer, n int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.HTTP+"/v1/revocations?limit=1000", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", apiToken)
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	var page struct {
		Revocations []struct {
			ID        string
			RevokedBy string `json:"revoked_by"`
		}
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&page))
	require.Lenf(t, page.Revocations, n, "the API lists %d revocations", len(page.Revocations))
	for _, r := range page.Revocations {
		assert.NotEmptyf(t, r.ID, "a revocation without id or requester: %+v", r)
		assert.NotEmptyf(t, r.RevokedBy, "a revocation without id or requester: %+v", r)
	}
}

// TestEndpointsDuringStoreOutage: a revocation that cannot be committed is not
// acknowledged, and the repeated request succeeds once the store is back.
func TestEndpointsDuringStoreOutage(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer()
	t.Cleanup(iss.Close)
	pg := harness.Postgres(t)
	proxy := harness.Proxy(t, pg.Addr)
	b, _ := harness.BouncerAndFront(t, endpointsConfig(t, iss, pg.Via(proxy.Addr), ""), "127.0.0.1:9")
	token := iss.Mint(map[string]any{"client_id": "shop"})
	revokeByAPI := func() (int, string) {
		return send(t, b, "/v1/revocations", "application/json", `{"token":"`+token+`"}`, "Authorization", apiToken)
	}
	revokeByRFC7009 := func() (int, string) {
		return send(t, b, "/oauth2/revoke", formType, url.Values{"token": {token}}.Encode(), "Authorization", apiToken)
	}
	proxy.Down()
	for name, endpoint := range map[string]func() (int, string){"API": revokeByAPI, "RFC 7009": revokeByRFC7009} {
		status, body := endpoint()
		assert.Falsef(t, status != 503 && status != 504, "%s: %d %s, want 503 or 504", name, status, body)
	}
	assert.NoError(t, b.Live(t.Context()), "liveness")
	proxy.Heal()
	for name, endpoint := range map[string]func() (int, string){"API": revokeByAPI, "RFC 7009": revokeByRFC7009} {
		harness.Eventually(t, 10*time.Second, name+" stores the revocation", func(context.Context) error {
			if status, body := endpoint(); status >= 300 {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
	}
}
