package cli

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/envoy/starter"
)

// runInit runs init in dir, as a user does in the current directory, and returns what it
// prints.
func runInit(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := Run(t.Context(), append([]string{"init"}, args...), Process{Out: &out, Err: &out, Env: func(string) (string, bool) { return "", false }})
	return out.String(), err
}

// provider serves a discovery document in which NAME stands for the issuer.
func provider(t *testing.T, document, keys string) string {
	t.Helper()
	return "http://" + strings.TrimPrefix(serveProvider(t, httptest.NewServer, document, keys).URL, "http://")
}

func serveProvider(t *testing.T, start func(http.Handler) *httptest.Server, document, keys string) *httptest.Server {
	t.Helper()
	var server *httptest.Server
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(strings.ReplaceAll(document, "NAME", server.URL)))
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(keys)) })
	server = start(mux)
	t.Cleanup(server.Close)
	return server
}

const plainDocument = `{"issuer":"NAME","jwks_uri":"NAME/keys","id_token_signing_alg_values_supported":["RS256","HS256"],"backchannel_logout_supported":true}`

func goodKeys() string { return string(authztest.KeySet(authztest.NewKey("ES256"))) }

// load loads the configuration that init wrote.
func load(t *testing.T, dir string) sidecar.Settings {
	t.Helper()
	s, err := sidecar.Load(filepath.Join(dir, "jwt-bouncer.yaml"), nil)
	require.NoError(t, err)
	return s
}

func TestInitWritesWhatWasAsked(t *testing.T) {
	t.Parallel()
	name, dir := provider(t, plainDocument, goodKeys()), filepath.Join(t.TempDir(), "a b", "my")
	out, err := runInit(t, "--issuer", name, "--audience", "api", "--audience", "true", "--audience", `it's: "odd", #1 {x}`, "--client", "shop", "--dir", dir,
		"--listen", "127.0.0.1:1", "--grpc", "unix:///run/authz.sock", "--http", "[::1]:2", "--upstream", "app:3", "--store", "postgres://bouncer@db.example/revocations")
	require.NoError(t, err)
	s := load(t, dir)
	require.Len(t, s.Issuers, 1)
	assert.Equal(t, name, s.Issuers[0].Issuer)
	assert.Equal(t, []string{"api", "true", `it's: "odd", #1 {x}`}, s.Issuers[0].Audiences)
	assert.Equal(t, []string{"RS256", "ES256"}, s.Issuers[0].Algorithms)
	assert.Empty(t, s.Issuers[0].JWKS, "discovery")
	assert.False(t, s.Issuers[0].AcceptIDTokens)
	assert.Equal(t, []string{"shop"}, s.API.Logout.Audiences)
	assert.True(t, s.API.Logout.AlsoSubject, "nothing says that access tokens have a sid")
	assert.Equal(t, "unix:///run/authz.sock", s.Listen.GRPC)
	assert.Equal(t, "[::1]:2", s.Listen.HTTP)
	assert.Equal(t, "postgres://bouncer@db.example/revocations", s.Store)
	front, err := os.ReadFile(filepath.Join(dir, "envoy.yaml"))
	require.NoError(t, err)
	for _, want := range []string{`address: "127.0.0.1", port_value: 1}`, `pipe: {path: "/run/authz.sock"}`, `address: "app", port_value: 3}`} {
		assert.Contains(t, string(front), want)
	}
	assert.Contains(t, out, "jwt-bouncer --config '"+dir+"/jwt-bouncer.yaml' serve &\n", "the next commands can be copied")
	assert.NotContains(t, out, "It can tell of logouts")
}

func TestInitDefaults(t *testing.T) {
	t.Parallel()
	name, dir := provider(t, plainDocument, goodKeys()), filepath.Join(t.TempDir(), "50% of #1?")
	out, err := runInit(t, "--issuer", name, "--audience", "api", "--dir", dir)
	require.NoError(t, err)
	s := load(t, dir)
	assert.Equal(t, "sqlite://"+(&url.URL{Path: dir}).EscapedPath()+"/revocations.db", s.Store)
	assert.Equal(t, "127.0.0.1:9191", s.Listen.GRPC)
	assert.Empty(t, s.API.Logout.Audiences)
	assert.Contains(t, out, "It can tell of logouts")
	assert.Contains(t, out, "http://127.0.0.1:8080/   # 401")
}

func TestInitDoubtsLogouts(t *testing.T) {
	t.Parallel()
	name, dir := provider(t, `{"issuer":"NAME","jwks_uri":"NAME/keys"}`, goodKeys()), t.TempDir()
	out, err := runInit(t, "--issuer", name, "--audience", "api", "--client", "shop", "--dir", dir)
	require.NoError(t, err)
	assert.Contains(t, out, "--client may be in vain")
	assert.Equal(t, []string{"shop"}, load(t, dir).API.Logout.Audiences)
}

// Whatever fails, no file is left and none is changed.
func TestInitWritesAllOrNothing(t *testing.T) {
	t.Parallel()
	name := provider(t, plainDocument, goodKeys())
	t.Run("a file exists", func(t *testing.T) {
		t.Parallel()
		for _, file := range []string{"jwt-bouncer.yaml", "envoy.yaml"} {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte("mine"), 0o600))
			_, err := runInit(t, "--issuer", name, "--audience", "api", "--dir", dir)
			require.ErrorContains(t, err, "nothing was written, because there is already: "+filepath.Join(dir, file))
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, left, 1)
			text, err := os.ReadFile(filepath.Join(dir, file))
			require.NoError(t, err)
			require.Equal(t, "mine", string(text))
		}
	})
	t.Run("a dangling link exists", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		target := filepath.Join(t.TempDir(), "elsewhere")
		require.NoError(t, os.Symlink(target, filepath.Join(dir, "envoy.yaml")))
		_, err := runInit(t, "--issuer", name, "--audience", "api", "--dir", dir)
		require.ErrorContains(t, err, "envoy.yaml")
		require.NoFileExists(t, target)
	})
	t.Run("the directory is a file", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(dir, nil, 0o600))
		_, err := runInit(t, "--issuer", name, "--audience", "api", "--dir", dir)
		require.ErrorContains(t, err, "nothing was written: ")
	})
	t.Run("the second file fails", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "my")
		// A name longer than a file system takes fails after the first is made.
		err := writeAll(dir, "my", append(samplePlan(), fileNamed(strings.Repeat("n", 300))))
		require.ErrorContains(t, err, "nothing was written: ")
		require.NoDirExists(t, dir)
	})
	t.Run("the configuration is not valid", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "my")
		_, err := runInit(t, "--issuer", name, "--audience", "api", "--dir", dir, "--store", "postgres://bouncer:hunter2@db.example/r")
		require.ErrorContains(t, err, "the URL contains a password")
		require.NotContains(t, err.Error(), "hunter2")
		require.NoDirExists(t, dir)
	})
}

func TestInitErrors(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(nil)
	closed.Close()
	secure := serveProvider(t, httptest.NewTLSServer, plainDocument, goodKeys())
	good := provider(t, plainDocument, goodKeys())
	for name, c := range map[string]struct {
		args  []string
		want  []string
		usage bool
	}{
		"unreachable":     {[]string{"--issuer", closed.URL}, []string{"connection refused", "hint: check the name and the way to it"}, false},
		"slash":           {[]string{"--issuer", good + "/"}, []string{"they differ in the slash at the end", "--issuer " + good}, false},
		"another issuer":  {[]string{"--issuer", provider(t, `{"issuer":"https://other.example","jwks_uri":"NAME/keys"}`, goodKeys())}, []string{"https://other.example", "compare with iss of a token"}, false},
		"escapes":         {[]string{"--issuer", provider(t, `{"issuer":"https://a.example/\u001b[2J","jwks_uri":"NAME/keys"}`, goodKeys())}, []string{"--issuer 'https://a.example/?[2J'"}, false},
		"tenants":         {[]string{"--issuer", provider(t, `{"issuer":"https://a.example/{tenantid}/v2.0","jwks_uri":"NAME/keys"}`, goodKeys())}, []string{"use the issuer of your tenant"}, false},
		"no document":     {[]string{"--issuer", good + "/realms/shop"}, []string{"status 404", "exactly the iss of its tokens"}, false},
		"HTML":            {[]string{"--issuer", provider(t, "<html>", "")}, []string{"is an HTML page", "hint: the document must be"}, false},
		"HMAC only":       {[]string{"--issuer", provider(t, plainDocument, `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`)}, []string{"contains no usable key", "HMAC"}, false},
		"unknown CA":      {[]string{"--issuer", secure.URL}, []string{"certificate", "--ca FILE"}, false},
		"http elsewhere":  {[]string{"--issuer", "http://idp.example"}, []string{"--issuer: the keys of an http issuer could be replaced", "https"}, true},
		"the document":    {[]string{"--issuer", "https://idp.example/.well-known/openid-configuration"}, []string{"--issuer: is the URL of a discovery document"}, true},
		"tenant id":       {[]string{"--issuer", "https://login.microsoftonline.com/{tenantid}/v2.0"}, []string{"--issuer: write your tenant's id"}, true},
		"password":        {[]string{"--issuer", "https://a:hunter2@idp.example"}, []string{"--issuer: URL must not contain a user name"}, true},
		"org server":      {[]string{"--issuer", "https://dev-1234.okta.com"}, []string{"only Okta can verify", "/oauth2/default"}, true},
		"empty audience":  {[]string{"--issuer", good, "--audience", ""}, []string{"--audience is empty"}, true},
		"no CA file":      {[]string{"--issuer", good, "--ca", "missing.pem"}, []string{"--ca: ", "missing.pem"}, true},
		"Envoy's address": {[]string{"--issuer", good, "--listen", "8080"}, []string{`--listen: "8080" is not host:port`}, true},
		"Envoy's port":    {[]string{"--issuer", "https://idp.example", "--for", "compose", "--listen", "127.0.0.1:80}"}, []string{"--listen: ", "is not host:port"}, true},
		"upstream":        {[]string{"--issuer", good, "--upstream", "http://app:80"}, []string{"--upstream: ", "is not host:port"}, true},
		"sidecar":         {[]string{"--issuer", good, "--grpc", "nowhere"}, []string{`--grpc: "nowhere" is not host:port`}, true},
		"sidecar's HTTP":  {[]string{"--issuer", good, "--http", "nowhere"}, []string{"nothing was written", "listen.http"}, true},
		"not for Istio":   {[]string{"--issuer", "https://idp.example", "--for", "istio", "--upstream", "a:1"}, []string{"--upstream has no effect with --for istio"}, true},
		"loopback":        {[]string{"--issuer", good, "--for", "compose"}, []string{"a container has a loopback address of its own"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "my")
			args := append(c.args, "--dir", dir)
			if name != "empty audience" {
				args = append(args, "--audience", "api")
			}
			_, err := runInit(t, args...)
			require.Error(t, err)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "hunter2")
			var wrong *UsageError
			require.Equal(t, c.usage, errors.As(err, &wrong), "%v", err)
			require.NoDirExists(t, dir)
		})
	}
}

func TestInitReachesAPrivateAuthority(t *testing.T) {
	t.Parallel()
	server, dir := serveProvider(t, httptest.NewTLSServer, plainDocument, goodKeys()), t.TempDir()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})
	require.NoError(t, os.WriteFile(ca, append(key, certificate...), 0o600))
	copied, err := readCertificates(ca)
	require.NoError(t, err)
	require.Equal(t, string(certificate), string(copied), "a key in the file is not copied")
	_, err = runInit(t, "--issuer", server.URL, "--audience", "api", "--ca", ca, "--dir", dir)
	require.NoError(t, err)
	require.Equal(t, ca, load(t, dir).Issuers[0].CAFile)
}

// A file that holds no secret can be read by the user that runs Envoy.
func TestInitFileModes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, writeAll(dir, dir, append(samplePlan(), secretNamed("deep/er/secret"))))
	for name, mode := range map[string]fs.FileMode{"a": 0o644, "deep/er/secret": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), name)
	}
}

func samplePlan() []starter.File { return []starter.File{{Name: "a", Text: []byte("text")}} }

func fileNamed(name string) starter.File { return starter.File{Name: name} }

func secretNamed(name string) starter.File { return starter.File{Name: name, Secret: true} }
