package fetch_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"jwtbouncer/authz/fetch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const maxBytes = 1000

// get requests the path of a server that h handles.
func get(t *testing.T, h http.HandlerFunc, mediaType string) (fetch.Document, error) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return getFrom(t, server.URL+"/keys", mediaType, fetch.Config{})
}

func getFrom(t *testing.T, url, mediaType string, c fetch.Config) (fetch.Document, error) {
	t.Helper()
	client, err := fetch.NewClient(fetch.ClientOptions{Config: c, Timeout: 5 * time.Second})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	return fetch.Do(client, req, mediaType, maxBytes)
}

func packed(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.Bytes()
}

// A server may compress although identity is asked for. What it unpacks to is
// bounded like any body.
func TestContentCoding(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		coding []string
		body   []byte
		want   string // of the body
		err    string // a part of the error; empty: none
	}{
		"none":               {nil, []byte("text"), "text", ""},
		"identity":           {[]string{"identity"}, []byte("text"), "text", ""},
		"gzip":               {[]string{"gzip"}, packed("text"), "text", ""},
		"gzip in capitals":   {[]string{"GZIP"}, packed("text"), "text", ""},
		"x-gzip":             {[]string{"x-gzip"}, packed("text"), "text", ""},
		"two members":        {[]string{"gzip"}, append(packed("te"), packed("xt")...), "text", ""},
		"as large as can be": {[]string{"gzip"}, packed(strings.Repeat("a", maxBytes)), strings.Repeat("a", maxBytes), ""},
		"bomb":               {[]string{"gzip"}, packed(strings.Repeat("a", 1<<20)), "", "larger than 1000 bytes"},
		"cut off":            {[]string{"gzip"}, packed("text")[:20], "", "unexpected EOF"},
		"not packed":         {[]string{"gzip"}, []byte(`{"keys":[]}`), "", "Content-Encoding is gzip, but the body is not"},
		"br":                 {[]string{"br"}, []byte("text"), "", `Content-Encoding is "br", although identity was asked for`},
		"twice":              {[]string{"gzip, gzip"}, packed(string(packed("text"))), "", `"gzip, gzip"`},
		"two headers":        {[]string{"gzip", "gzip"}, packed(string(packed("text"))), "", `"gzip, gzip"`},
		"packed, unsaid":     {nil, packed("text"), string(packed("text")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan []string, 1)
			d, err := get(t, func(w http.ResponseWriter, r *http.Request) {
				asked <- r.Header.Values("Accept-Encoding")
				w.Header()["Content-Encoding"] = tt.coding
				_, _ = w.Write(tt.body)
			}, "")
			require.Equal(t, []string{"identity"}, <-asked)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				require.ErrorContains(t, err, "/keys")
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, string(d.Body))
		})
	}
}

// A message says what came, and contains no part of it.
func TestDocumentsAreNamed(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"":                                   "an empty document",
		"<!DOCTYPE html><title>Sign in":      "an HTML page",
		" \n<html lang=en>secret":            "an HTML page",
		"<?xml version='1.0'?><a/>":          "an XML document",
		"-----BEGIN PUBLIC KEY-----\nsecret": "PEM",
		"\ufeff-----BEGIN CERTIFICATE-----":  "PEM",
		string(packed("secret")):             "gzip data",
		"\xff\xfe{\x00}\x00":                 "UTF-16 text",
		"\x00\xff\x80":                       "binary data",
		`{"keys":[]}`:                        "a JWK set",
		"\ufeff" + `{"keys":[]}`:             "a JWK set",
		`{"kty":"EC","x":"secret"}`:          "a single JWK",
		`[{"kty":"EC"}]`:                     "a JSON array",
		`{"issuer":"https://a","jwks_uri":"https://a/k"}`:       "a discovery document",
		`{"issuer":"https://a","token_endpoint":"https://a/t"}`: "a discovery document",
		`{"active":false}`: "an introspection response",
		`{"error":"invalid_request","error_description":"secret"}`: "an error response in JSON",
		`{"k1":"-----BEGIN CERTIFICATE-----\nMII"}`:                "a JSON object of PEM certificates",
		`{"secret":1}`:             "a JSON object",
		`"secret"`:                 "a JSON value that is no object",
		`{"keys":[`:                "malformed JSON",
		"secret":                   "text",
		"eyJhbGciOiJub25lIn0.e30.": "a JWT",
	} {
		d := fetch.Document{Body: []byte(body), From: "https://a/keys", MediaType: "text/html"}
		require.Equal(t, fmt.Sprintf("https://a/keys is %s (text/html, %d bytes)", want, len(body)), d.String())
		require.Equal(t, fmt.Sprintf("%s (%d bytes)", want, len(body)), fetch.Document{Body: []byte(body)}.Describe())
	}
}

func TestMediaTypes(t *testing.T) {
	t.Parallel()
	send := func(mediaType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{mediaType}
			_, _ = w.Write([]byte(body))
		}
	}
	d, err := get(t, send("Application/JSON; charset=utf-8", "{}"), "application/json")
	require.NoError(t, err)
	require.Equal(t, "application/json", d.MediaType)
	_, err = get(t, send("text/html", "<html>secret"), "application/json")
	require.ErrorContains(t, err, "/keys: the response is an HTML page (text/html, 12 bytes) and not application/json")
	_, err = get(t, send("", "{}"), "application/json")
	require.ErrorContains(t, err, "the response is a JSON object (2 bytes) and not application/json")
	d, err = get(t, send("no type/", "{}"), "")
	require.NoError(t, err)
	require.Empty(t, d.MediaType)
}

// newCertificate writes a self-signed pair and returns its paths.
func newCertificate(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return cert, key
}

// The client certificate is read for each handshake.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].SerialNumber)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	cert, key := newCertificate(t, dir, 1)
	ca := filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))

	_, err := getFrom(t, server.URL, "", fetch.Config{CAFile: ca})
	require.Error(t, err, "the server requires a certificate")

	client, err := fetch.NewClient(fetch.ClientOptions{Config: fetch.Config{CAFile: ca, CertFile: cert, KeyFile: key}, Timeout: 5 * time.Second})
	require.NoError(t, err)
	for serial := 2; serial < 5; serial++ {
		newCertificate(t, dir, int64(serial)) // rotated
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
		require.NoError(t, err)
		d, err := fetch.Do(client, req, "", maxBytes)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(serial), string(d.Body))
	}

	_, err = fetch.NewClient(fetch.ClientOptions{Config: fetch.Config{CertFile: cert, KeyFile: ca}})
	require.ErrorContains(t, err, "cert_file and key_file")
}

// Only the configured proxy is used.
func TestProxy(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "by proxy: "+r.URL.String())
	}))
	defer proxy.Close()
	d, err := getFrom(t, "http://issuer.test/keys", "", fetch.Config{Proxy: proxy.URL})
	require.NoError(t, err)
	require.Equal(t, "by proxy: http://issuer.test/keys", string(d.Body))
	direct := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "direct") }))
	defer direct.Close()
	d, err = getFrom(t, direct.URL, "", fetch.Config{Proxy: proxy.URL})
	require.NoError(t, err)
	require.Equal(t, "direct", string(d.Body), "secrets go over http to loopback addresses only")
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		c    fetch.Config
		want string // empty: valid
	}{
		{fetch.Config{}, ""},
		{fetch.Config{CAFile: "a", CertFile: "b", KeyFile: "c", Proxy: "http://proxy.example:3128"}, ""},
		{fetch.Config{Proxy: "https://proxy.example/"}, ""},
		{fetch.Config{CertFile: "b"}, "cert_file"},
		{fetch.Config{KeyFile: "b"}, "cert_file"},
		{fetch.Config{Proxy: "proxy.example:3128"}, "proxy"},
		{fetch.Config{Proxy: "socks5://proxy.example"}, "proxy"},
		{fetch.Config{Proxy: "http://user:hunter2@proxy.example"}, "proxy"},
		{fetch.Config{Proxy: "http://proxy.example/path"}, "proxy"},
		{fetch.Config{Proxy: "http://"}, "proxy"},
	} {
		var got []string
		tt.c.Validate(func(path, format string, args ...any) {
			got = append(got, path)
			require.NotContains(t, fmt.Sprintf(format, args...), "hunter2")
		})
		if tt.want == "" {
			require.Empty(t, got, "%+v", tt.c)
			continue
		}
		require.Equal(t, []string{tt.want}, got, "%+v", tt.c)
	}
}

// A file is one secret, or an error that contains none of it.
func TestReadBearerToken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	for text, want := range map[string]string{
		"hunter": "hunter", "hunter\n": "hunter", "hunter\r\n": "hunter", "#hunter!~": "#hunter!~",
		"": "", "\n": "", "hunter\nhunter": "", "a hunter": "", "hunter\x00": "", "húnter": "", strings.Repeat("s", 17<<10): "",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		got, err := fetch.ReadBearerToken(path)
		require.Equal(t, want, got)
		require.Equal(t, want == "", err != nil, "%q: %v", text, err)
		if err != nil {
			require.NotContains(t, strings.ReplaceAll(err.Error(), path, ""), "unter")
			require.ErrorContains(t, err, path)
		}
	}
	_, err := fetch.ReadBearerToken(path + "none")
	require.Error(t, err)
}
