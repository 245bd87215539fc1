package idp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// keycloak is an administrator's client of a running Keycloak.
type keycloak struct {
	t      *testing.T
	url    string
	client *http.Client
}

// startKeycloak starts the Keycloak that keycloak.sh has installed and built, with
// its database in memory.
func startKeycloak(t *testing.T) *keycloak {
	t.Helper()
	installed, err := filepath.EvalSymlinks(filepath.Join(harness.Root(), ".tools", "live", "keycloak"))
	require.NoError(t, err, "run test/live/idp/keycloak.sh")
	// Keycloak writes below its home. A home of the test's own keeps the installed one
	// as it is.
	home := t.TempDir()
	for _, name := range []string{"bin", "lib", "providers", "themes"} {
		require.NoError(t, os.Symlink(filepath.Join(installed, name), filepath.Join(home, name)))
	}
	require.NoError(t, os.CopyFS(filepath.Join(home, "conf"), os.DirFS(filepath.Join(installed, "conf"))))
	require.NoError(t, os.Mkdir(filepath.Join(home, "data"), 0o700))
	k := &keycloak{t, fmt.Sprint("http://127.0.0.1:", harness.Port(t)), &http.Client{Timeout: 5 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}}
	management := fmt.Sprint("http://127.0.0.1:", harness.Port(t))
	harness.Server(t, harness.ServerOptions{
		Name: "keycloak", Path: "java", Self: true, Within: 5 * time.Minute,
		Env: []string{"KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD=admin"},
		Args: []string{
			"-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", // it runs for minutes, beside other servers
			"-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
			"-Dkc.home.dir=" + home, "-cp", filepath.Join(installed, "lib", "quarkus-run.jar"), "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
			"start", "--optimized", "--http-enabled=true", "--hostname-strict=false", "--http-host=127.0.0.1", "--http-port=" + port(k.url), "--http-management-port=" + port(management),
			// The sidecar of the test has plain HTTP and a loopback address.
			"--spi-ssf-transmitter--default--allow-insecure-push-targets=true", "--spi-ssf-transmitter--default--outbox-drainer-interval=1s",
			"--spi-ssf-transmitter--default--min-verification-interval-seconds=1",
		},
		Ready: func(ctx context.Context) error {
			_, err := harness.Get(ctx, management+"/health/ready")
			if err != nil {
				harness.Pause(ctx, 500*time.Millisecond) // each question costs the server a log line
			}
			return err
		},
	})
	return k
}

func port(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(err)
	}
	return u.Port()
}

func (k *keycloak) send(method, path, contentType, body string, header ...string) []byte {
	k.t.Helper()
	req, err := http.NewRequestWithContext(k.t.Context(), method, k.url+path, strings.NewReader(body))
	require.NoError(k.t, err)
	req.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := k.client.Do(req)
	require.NoError(k.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(k.t, err)
	require.Lessf(k.t, resp.StatusCode, 300, "%s %s: %s", method, path, text)
	return text
}

func (k *keycloak) token(realm string, form url.Values) string {
	k.t.Helper()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	require.NoError(k.t, json.Unmarshal(k.send("POST", "/realms/"+realm+"/protocol/openid-connect/token", "application/x-www-form-urlencoded", form.Encode()), &answer))
	return answer.AccessToken
}

// admin calls the admin API below the realms and decodes the response into result,
// unless it is nil.
func (k *keycloak) admin(method, path string, body, result any) {
	k.t.Helper()
	var text []byte
	if body != nil {
		var err error
		text, err = json.Marshal(body)
		require.NoError(k.t, err)
	}
	token := k.token("master", url.Values{"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {"admin"}})
	answer := k.send(method, "/admin/realms"+path, "application/json", string(text), "Authorization", "Bearer "+token)
	if result != nil {
		require.NoErrorf(k.t, json.NewDecoder(bytes.NewReader(answer)).Decode(result), "%s: %s", path, answer)
	}
}

// signIn returns an access token of a user who signs in through a client.
func (k *keycloak) signIn(client, user string) string {
	k.t.Helper()
	return k.token("shop", url.Values{"grant_type": {"password"}, "client_id": {client}, "client_secret": {"a-secret-of-the-test"}, "username": {user}, "password": {"x"}, "scope": {"openid"}})
}

// userID returns the id that a user has in tokens.
func (k *keycloak) userID(name string) string {
	k.t.Helper()
	var users []struct{ ID string }
	k.admin("GET", "/shop/users?exact=true&username="+name, nil, &users)
	require.Len(k.t, users, 1)
	return users[0].ID
}

// newUsers creates users of a realm with the password x.
func (k *keycloak) newUsers(realm string, names ...string) {
	k.t.Helper()
	for _, user := range names {
		k.admin("POST", "/"+realm+"/users", map[string]any{"username": user, "enabled": true, "email": user + "@example.com", "emailVerified": true, "firstName": user, "lastName": "x",
			"credentials": []map[string]any{{"type": "password", "value": "x", "temporary": false}}}, nil)
	}
}

// newClient creates a client whose tokens are for the API.
func (k *keycloak) newClient(id string, attributes map[string]string, more map[string]any) {
	k.t.Helper()
	c := map[string]any{
		"clientId": id, "secret": "a-secret-of-the-test", "directAccessGrantsEnabled": true, "publicClient": false, "attributes": attributes,
		"protocolMappers": []map[string]any{{"name": "api", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
			"config": map[string]string{"included.custom.audience": "api", "access.token.claim": "true", "id.token.claim": "false"}}},
	}
	for name, v := range more {
		c[name] = v
	}
	k.admin("POST", "/shop/clients", c, nil)
}

// newKey adds a key with which the realm signs from now on, and returns the id of
// the component that holds it.
func (k *keycloak) newKey(priority int) {
	k.t.Helper()
	k.admin("POST", "/shop/components", map[string]any{"name": fmt.Sprint("key-", priority), "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
		"config": map[string][]string{"priority": {fmt.Sprint(priority)}, "algorithm": {"RS256"}}}, nil)
}

// removeKey removes the component that holds the key of a token.
func (k *keycloak) removeKey(token string) {
	k.t.Helper()
	var realm struct {
		Keys []struct{ KID, ProviderID string }
	}
	k.admin("GET", "/shop/keys", nil, &realm)
	for _, key := range realm.Keys {
		if key.KID == keyID(k.t, token) {
			k.admin("DELETE", "/shop/components/"+key.ProviderID, nil, nil)
			return
		}
	}
	k.t.Fatalf("the realm has no key %s: %v", keyID(k.t, token), realm)
}

// TestKeycloak runs the configuration of docs/identity-providers.md at a real
// Keycloak. Its messages on logout, on a pushed not-before, on "logout all" and over
// Shared Signals, pushed and polled, revoke tokens at a real Envoy.
func TestKeycloak(t *testing.T) {
	k := startKeycloak(t)
	k.admin("POST", "", map[string]any{"realm": "shop", "enabled": true, "accessTokenLifespan": 600, "attributes": map[string]string{"ssf.transmitterEnabled": "true"}}, nil)
	config := documented(t, "identity-providers.md", "Keycloak", "https://keycloak.example", k.url)
	initialized(t, "Keycloak", k.url+"/realms/shop", "api", "shop")
	i := install(t, config)
	k.newClient("shop", map[string]string{"backchannel.logout.url": i.sidecar.HTTP + "/oidc/backchannel-logout", "backchannel.logout.session.required": "true"},
		map[string]any{"adminUrl": i.sidecar.HTTP + "/keycloak"})
	k.newClient("kiosk", nil, nil) // logouts are known from Shared Signals only
	k.newUsers("shop", "alice", "bob")
	i.awaitReady()

	t.Run("shape", func(t *testing.T) { keycloakShape(t, k.signIn("shop", "alice")) })
	t.Run("logout", func(t *testing.T) { keycloakLogout(t, k, i) })
	t.Run("rotation", func(t *testing.T) {
		old := k.signIn("shop", "bob")
		i.rotated(old, func() { k.newKey(200) }, func() string { return k.signIn("shop", "bob") }, func() { k.removeKey(old); k.newKey(300) })
	})
	t.Run("admin actions", func(t *testing.T) { keycloakAdminActions(t, k, i) })
	t.Run("shared signals", func(t *testing.T) { keycloakSharedSignals(t, k, i) })
	t.Run("event streams", func(t *testing.T) { keycloakEventStreams(t, k) })
}

// keycloakShape requires that a token has the shape of testdata/providers in
// test/vectors: the claims that every access token of a user has, and the prefix of
// its jti.
func keycloakShape(t *testing.T, token string) {
	text, err := os.ReadFile(filepath.Join(harness.Root(), "test", "vectors", "testdata", "providers", "keycloak.json"))
	require.NoError(t, err)
	var shapes struct {
		Tokens []struct{ Header, Claims map[string]any }
	}
	require.NoError(t, json.Unmarshal(text, &shapes))
	shape := shapes.Tokens[0]
	header, claims := segment(t, token, 0), segment(t, token, 1)
	for name := range shape.Header {
		assert.Contains(t, header, name)
	}
	for name := range shape.Claims {
		switch name {
		case "auth_time": // only of a sign-in with a browser
		case "allowed-origins": // only if the client has web origins
		default:
			assert.Contains(t, claims, name)
		}
	}
	assert.Equal(t, shape.Claims["aud"], claims["aud"])
	assert.Equal(t, shape.Claims["typ"], claims["typ"])
	assert.Regexp(t, "^[a-z]{6}:[0-9a-f-]{36}$", claims["jti"])
	assert.Regexp(t, "^[a-z]{6}:[0-9a-f-]{36}$", shape.Claims["jti"])
}

func keycloakLogout(t *testing.T, k *keycloak, i *installation) {
	alice, bob := k.signIn("shop", "alice"), k.signIn("shop", "bob")
	i.allowed("alice", alice)
	k.admin("POST", "/shop/users/"+k.userID("alice")+"/logout", nil, nil)
	i.soon("alice is logged out", alice, 401)
	i.allowed("bob", bob)
	i.allowed("alice again", k.signIn("shop", "alice"))
	assert.Contains(t, i.sidecar.Log(), `"actor":"logout:`+k.url+`/realms/shop"`, "back-channel logout is what ended it")
}

func keycloakAdminActions(t *testing.T, k *keycloak, i *installation) {
	var clients []struct{ ID string }
	k.admin("GET", "/shop/clients?clientId=shop", nil, &clients)
	require.Len(t, clients, 1)
	var nodes map[string]any
	k.admin("GET", "/shop/clients/"+clients[0].ID+"/test-nodes-available", nil, &nodes)
	assert.Nil(t, nodes["failedRequests"], "%v", nodes)
	assert.NotEmpty(t, nodes["successRequests"], "%v", nodes)

	bob := k.signIn("shop", "bob")
	i.allowed("bob", bob)
	var pushed map[string]any
	k.admin("PUT", "/shop", map[string]any{"notBefore": time.Now().Unix() + 1}, nil)
	k.admin("POST", "/shop/push-revocation", nil, &pushed)
	require.NotEmpty(t, pushed["successRequests"], "%v", pushed)
	i.soon("bob's token is older than the realm's not-before", bob, 401)
	i.allowedAgain("a token issued after the not-before is allowed", func() string { return k.signIn("shop", "bob") })

	bob = k.signIn("shop", "bob")
	i.allowed("bob again", bob)
	k.admin("POST", "/shop/logout-all", nil, &pushed)
	require.NotEmpty(t, pushed["successRequests"], "%v", pushed)
	i.soon("all users are logged out", bob, 401)
}

func keycloakSharedSignals(t *testing.T, k *keycloak, i *installation) {
	const caep = "https://schemas.openid.net/secevent/caep/event-type/"
	endpoint := i.sidecar.HTTP + "/ssf/events"
	k.newClient("bouncer", map[string]string{"ssf.enabled": "true", "ssf.defaultSubjects": "ALL", "ssf.validPushUrls": endpoint, "ssf.streamAudience": "https://bouncer.example/ssf"}, nil)
	k.admin("POST", "/shop/ssf/clients/bouncer/stream", map[string]any{"delivery": map[string]string{"method": "urn:ietf:rfc:8935", "endpoint_url": endpoint},
		"events_requested": []string{caep + "session-revoked", caep + "credential-change"}}, nil)

	alice, bob := k.signIn("kiosk", "alice"), k.signIn("kiosk", "bob")
	i.allowed("alice", alice)
	k.admin("POST", "/shop/users/"+k.userID("alice")+"/logout", nil, nil)
	i.soon("session-revoked ends alice's tokens", alice, 401)
	i.allowed("bob", bob)
	k.admin("PUT", "/shop/users/"+k.userID("bob")+"/reset-password", map[string]any{"type": "password", "value": "x", "temporary": false}, nil)
	i.soon("credential-change ends bob's tokens", bob, 401)
	assert.Contains(t, i.sidecar.Log(), `"actor":"ssf:`+k.url+`/realms/shop"`, "Shared Signals are what ended them")
}
