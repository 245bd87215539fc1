package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/envoy/sidecar"
)

// noEnv is an environment without variables.
func noEnv(string) (string, bool) { return "", false }

// load writes and loads a configuration.
func load(t *testing.T, text string, mode os.FileMode) (string, sidecar.Settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.Chmod(path, mode))
	s, err := sidecar.Load(path, noEnv)
	return path, s, err
}

const minimal = "issuers: [{issuer: https://issuer.example, audiences: [api]}]\n"

func TestConfigurationFindings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       []string
	}{
		{"sound", minimal, 0o644, nil},
		{"invalid", "issuers: []\nstor: 1\n", 0o600, []string{"config.valid failure"}},
		{"writable", minimal, 0o646, []string{"config.permissions failure"}},
		{"readable, with the password of Redis", minimal + "redis: {addrs: ['127.0.0.1:6379'], password: hunter22}\n", 0o644, []string{"config.permissions warning"}},
		{"readable, with the password of the store", minimal + "store: postgres://a:hunter22@db/x\n", 0o644, []string{"config.permissions warning"}},
		{"not readable by others", minimal + "store: postgres://a:hunter22@db/x\n", 0o640, nil},
		{"a route that is never reached", minimal + `routes:
  - {name: a, match: {paths: [{prefix: /x}], methods: [GET]}}
  - {name: b, match: {paths: [{prefix: /x}], methods: [POST]}}
  - {name: c, match: {paths: [{prefix: /x/y}], methods: [GET, POST]}}
`, 0o600, []string{"config.routes warning"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var r Report
			file, s, err := load(t, c.text, c.mode)
			r.Configuration(file, s, err)
			assert.Equalf(t, c.want, found(&r), "%+v", r.Results())
			assert.NotContains(t, fmt.Sprint(r.Results()), "hunter22")
		})
	}
}

// certificate writes a certificate that ends at the time, and its key.
func certificate(t *testing.T, end time.Time) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: end.Add(-time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return cert, key
}

func TestFileFindings(t *testing.T) {
	t.Parallel()
	open := filepath.Join(t.TempDir(), "open")
	require.NoError(t, os.Mkdir(open, 0o700))
	require.NoError(t, os.Chmod(open, 0o777))
	secret := func(mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "secret")
		require.NoError(t, os.WriteFile(path, []byte("hunter22\n"), 0o600))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	serve := func(end time.Duration) func(*sidecar.Settings) {
		return func(s *sidecar.Settings) {
			s.Listen.TLS.Certificate, s.Listen.TLS.Key = certificate(t, time.Now().Add(end))
		}
	}
	for name, c := range map[string]struct {
		change func(*sidecar.Settings)
		want   []string
	}{
		"sound":              {func(s *sidecar.Settings) { s.StorePasswordFile = secret(0o640) }, nil},
		"missing":            {func(s *sidecar.Settings) { s.StorePasswordFile = "/nowhere" }, []string{"files.readable failure"}},
		"readable secret":    {func(s *sidecar.Settings) { s.StorePasswordFile = secret(0o644) }, []string{"files.permissions warning"}},
		"writable secret":    {func(s *sidecar.Settings) { s.Redis.PasswordFile = secret(0o606) }, []string{"files.permissions failure"}},
		"certificate":        {serve(90 * 24 * time.Hour), nil},
		"ending certificate": {serve(24 * time.Hour), []string{"files.certificate warning"}},
		"ended certificate":  {serve(-time.Hour), []string{"files.certificate failure"}},
		"socket":             {func(s *sidecar.Settings) { s.Listen.GRPC = "unix://" + filepath.Dir(secret(0o600)) + "/s" }, nil},
		"socket for all":     {func(s *sidecar.Settings) { s.Listen.GRPC = "unix://" + open + "/s" }, []string{"files.socket failure"}},
		"socket nowhere":     {func(s *sidecar.Settings) { s.Listen.GRPC = "unix:///nowhere/at/all/s" }, []string{"files.socket failure"}},
	} {
		s := sidecar.Defaults()
		c.change(&s)
		var r Report
		r.Files(s)
		assert.Equalf(t, c.want, found(&r), "%s: %+v", name, r.Results())
		assert.NotContains(t, fmt.Sprint(r.Results()), "hunter22")
	}
}

func TestIssuerFindings(t *testing.T) {
	t.Parallel()
	sound := authztest.NewIssuer()
	t.Cleanup(sound.Close)
	serve := func(h http.HandlerFunc) string {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server.URL
	}
	keys := string(sound.JWKS())
	withDate := func(date string, header ...string) string {
		return serve(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = []string{date}
			if date == "" {
				w.Header()["Date"] = nil
			}
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			fmt.Fprint(w, keys)
		})
	}
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for name, c := range map[string]struct {
		issuer issuer.Config
		want   []string
	}{
		"sound":          {issuer.Config{Issuer: sound.Name}, nil},
		"another issuer": {issuer.Config{Issuer: sound.Name + "/other"}, []string{"issuers.keys failure"}},
		"nobody there":   {issuer.Config{Issuer: "http://127.0.0.1:1"}, []string{"issuers.keys failure"}},
		"no keys":        {issuer.Config{Issuer: "https://a", JWKS: serve(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[]}`) })}, []string{"issuers.keys failure"}},
		"a key for others": {issuer.Config{Issuer: "https://a", JWKS: serve(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, strings.Replace(keys, `{"keys":[`, `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},`, 1))
		})}, []string{"issuers.refused warning"}},
		"a clock ahead":      {issuer.Config{Issuer: "https://a", JWKS: withDate(at(time.Minute))}, []string{"clocks.issuer warning"}},
		"within the leeway":  {issuer.Config{Issuer: "https://a", JWKS: withDate(at(20 * time.Second)), Leeway: 30 * time.Second}, nil},
		"a clock far ahead":  {issuer.Config{Issuer: "https://a", JWKS: withDate(at(time.Hour))}, []string{"clocks.issuer failure"}},
		"a clock far behind": {issuer.Config{Issuer: "https://a", JWKS: withDate(at(-time.Hour))}, []string{"clocks.issuer warning"}},
		"no date":            {issuer.Config{Issuer: "https://a", JWKS: withDate("")}, []string{"clocks.issuer not_examined"}},
		"a cache's date":     {issuer.Config{Issuer: "https://a", JWKS: withDate(at(-time.Hour), "Age", "3600")}, []string{"clocks.issuer not_examined"}},
		"plain text":         {issuer.Config{Issuer: "https://a", JWKS: "http://192.0.2.1:1/keys", FetchTimeout: 100 * time.Millisecond}, []string{"issuers.keys failure", "issuers.plaintext warning"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sidecar.Defaults()
			c.issuer.Audiences = []string{"api"}
			s.Issuers = []issuer.Config{c.issuer}
			var r Report
			r.Issuers(t.Context(), s)
			assert.Equalf(t, c.want, found(&r), "%+v", r.Results())
		})
	}
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	_, s, err := load(t, minimal+`headers: {claims: {X-JWT-Sub: sub}, metadata: [sub]}
routes:
  - {name: a, match: {paths: [{prefix: /a}]}, require: mtls}
  - {name: b, match: {paths: [{prefix: /b}]}, credentials: {cookies: [session]}}
  - {name: c, credentials: {headers: [x-goog-iap-jwt-assertion]}}
binding: {trust_forwarded_certificate: true}
`, 0o600)
	require.NoError(t, err)
	assert.Equal(t, Requirements{
		AnswerTime: 190 * time.Millisecond, Certificate: true, Metadata: true, ForwardedCert: true, IdentityHeaders: []string{"x-jwt-sub"},
		Credentials: []string{"authorization", "cookie", "x-goog-iap-jwt-assertion"}, GRPC: s.Listen.GRPC,
	}, Needs(s))
}

func TestAccept(t *testing.T) {
	t.Parallel()
	text := strings.Replace(sample(t), routeAt, perRoute(disabledRoute), 1)
	for accept, want := range map[string]int{"": 1, "envoy.route.disabled": 0, "envoy.route.disabled@listener ingress": 0, "envoy.route.disabled@elsewhere": 1, "envoy.order": 1} {
		var r Report
		if accept != "" {
			require.NoError(t, r.Accept([]string{accept}))
		}
		r.Proxy([]byte(text), need)
		assert.Equalf(t, want, r.Count(Failure), "%q", accept)
	}
	var r Report
	assert.ErrorContains(t, r.Accept([]string{"envoy.misspelt@x"}), `no check "envoy.misspelt"`)
}

func TestReadAdmin(t *testing.T) {
	t.Parallel()
	big := make([]byte, 1<<20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/config_dump":
			fmt.Fprint(w, "dump")
		case "/moved/config_dump":
			http.Redirect(w, r, "/config_dump", http.StatusFound)
		case "/big/config_dump":
			for range maxDump>>20 + 1 {
				if _, err := w.Write(big); err != nil {
					return
				}
			}
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	text, err := ReadAdmin(t.Context(), server.URL, false)
	require.NoError(t, err)
	assert.Equal(t, "dump", string(text))
	for base, want := range map[string]string{
		"http://envoy.example:9901": "not a loopback address", "http://10.0.0.1:9901": "not a loopback address", "127.0.0.1:9901": "a URL is needed", "ftp://127.0.0.1": "a URL is needed",
		"http://user:secret@127.0.0.1:1": "no user", server.URL + "/moved": "redirects", server.URL + "/none": "404", server.URL + "/big": "larger than", "http://127.0.0.1:1": "refused",
	} {
		_, err := ReadAdmin(t.Context(), base, false)
		if assert.ErrorContainsf(t, err, want, "%s", base) {
			assert.NotContains(t, err.Error(), "secret")
		}
	}
	_, err = ReadAdmin(t.Context(), "http://192.0.2.1:1", true)
	assert.NotContains(t, fmt.Sprint(err), "loopback") // it tries
}

// TestRunIsBounded: servers that accept connections and never answer are all
// reported when the time is over.
func TestRunIsBounded(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	mute := l.Addr().String()
	_, s, err := load(t, "issuers: [{issuer: 'http://"+mute+"', audiences: [api]}]\nstore: postgres://a@"+mute+"/x\nredis: redis://"+mute+"\n", 0o600)
	require.NoError(t, err)
	x := Examination{Settings: s, EnvoyURL: "http://" + mute, Envoy: func(ctx context.Context) ([]byte, error) { return ReadAdmin(ctx, "http://"+mute, false) }}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var r Report
	x.Run(ctx, &r)
	assert.Equal(t, []string{"envoy.config failure", "issuers.keys failure", "redis.reachable failure", "store.reachable failure"}, found(&r))
}

// TestRunWithoutSettings: the proxy is examined although the configuration cannot
// be loaded.
func TestRunWithoutSettings(t *testing.T) {
	t.Parallel()
	x := Examination{LoadErr: errors.New("unreadable"), Envoy: func(context.Context) ([]byte, error) { return []byte(sample(t)), nil }}
	var r Report
	x.Run(t.Context(), &r)
	assert.Equal(t, []string{"config.valid failure"}, found(&r))
	assert.Greater(t, r.Count(OK), 25)
	x = Examination{LoadErr: errors.New("unreadable"), Only: []string{"envoy"}}
	r = Report{}
	x.Run(t.Context(), &r)
	assert.Equal(t, []string{"envoy.config not_examined"}, found(&r))
}
