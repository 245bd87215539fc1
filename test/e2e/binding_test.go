package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
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

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return b64(sum[:])
}

// prover holds a key and makes DPoP proofs with it.
type prover struct {
	key *authztest.Key
	jwk map[string]any
}

func newProver() *prover {
	p := &prover{key: authztest.NewKey("ES256")}
	p.jwk = p.key.JWK()
	for _, member := range []string{"use", "alg", "kid"} {
		delete(p.jwk, member)
	}
	return p
}

// thumbprint returns the JWK thumbprint (RFC 7638). json.Marshal sorts the
// members, as section 3 requires.
func (p *prover) thumbprint() string {
	text, _ := json.Marshal(p.jwk)
	return hash(string(text))
}

func (p *prover) proof(method, url, token string, change map[string]any) string {
	claims := map[string]any{"jti": rand.Text(), "htm": method, "htu": url, "iat": time.Now().Unix(), "ath": hash(token)}
	for k, v := range change {
		claims[k] = v
	}
	head, _ := json.Marshal(map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": p.jwk})
	body, _ := json.Marshal(claims)
	input := b64(head) + "." + b64(body)
	return input + "." + b64(p.key.Sign("ES256", []byte(input)))
}

// TestDPoP sends DPoP proofs through two Envoys to two sidecars that share a
// Redis. The key's holder is allowed, a thief is not, and a proof is accepted
// once in the whole fleet.
func TestDPoP(t *testing.T) {
	t.Parallel()
	throughDoors(t, testDPoP)
}

func testDPoP(t *testing.T, module bool) {
	t.Helper()
	r := harness.NewRig(t, harness.RigOptions{Module: module, Redis: true, Sidecars: 2, Config: `
binding: {dpop: {max_age: 60s}}
routes:
  - {name: needed, match: {paths: [{prefix: /payments}]}, require: dpop}
  - {name: rest}
`})
	holder, thief := newProver(), newProver()
	token := r.Token(map[string]any{"cnf": map[string]any{"jkt": holder.thumbprint()}})
	plain := r.Token(nil)
	url := r.Front.URL + "/"
	used := holder.proof("GET", url, token, nil)
	const bad, unbound = "invalid_dpop_proof", `error="invalid_token"`
	for _, c := range []struct {
		name, path, scheme, token string
		proofs                    []string
		status                    int
		challenge                 string
	}{
		{"as a bearer token", "/", "Bearer", token, nil, 401, "DPoP realm"},
		{"as a bearer token with a proof", "/", "Bearer", token, []string{holder.proof("GET", url, token, nil)}, 401, "DPoP realm"},
		{"without a proof", "/", "DPoP", token, nil, 401, bad},
		{"with its proof", "/", "DPoP", token, []string{used}, 200, ""},
		{"with the same proof again", "/", "DPoP", token, []string{used}, 401, bad},
		{"with another proof", "/?page=2", "DPoP", token, []string{holder.proof("GET", url, token, nil)}, 200, ""},
		{"with two proofs", "/", "DPoP", token, []string{holder.proof("GET", url, token, nil), holder.proof("GET", url, token, nil)}, 401, bad},
		{"with a thief's proof", "/", "DPoP", token, []string{thief.proof("GET", url, token, nil)}, 401, bad},
		{"with a proof for another method", "/", "DPoP", token, []string{holder.proof("POST", url, token, nil)}, 401, bad},
		{"with a proof for another path", "/", "DPoP", token, []string{holder.proof("GET", url+"x", token, nil)}, 401, bad},
		{"with a proof for another host", "/", "DPoP", token, []string{holder.proof("GET", "https://elsewhere.example/", token, nil)}, 401, bad},
		{"with a proof for another token", "/", "DPoP", token, []string{holder.proof("GET", url, plain, nil)}, 401, bad},
		{"with an old proof", "/", "DPoP", token, []string{holder.proof("GET", url, token, map[string]any{"iat": time.Now().Add(-5 * time.Minute).Unix()})}, 401, bad},
		{"unbound token with a proof", "/", "DPoP", plain, []string{holder.proof("GET", url, plain, nil)}, 401, unbound},
		{"unbound token", "/", "Bearer", plain, nil, 200, ""},
		{"unbound token, DPoP required", "/payments", "Bearer", plain, nil, 401, "DPoP realm"},
		{"bound token, DPoP required", "/payments", "DPoP", token, []string{holder.proof("GET", url+"payments", token, nil)}, 200, ""},
	} {
		header := []string{"Authorization", c.scheme + " " + c.token}
		for _, p := range c.proofs {
			header = append(header, "DPoP", p)
		}
		reply, err := r.Front.Do(t.Context(), "GET", c.path, header...)
		require.NoError(t, err)
		assert.Equalf(t, c.status, reply.Status, "%s: %q and %q", c.name, reply.Header.Get("Www-Authenticate"), c.challenge)
		assert.Containsf(t, reply.Header.Get("Www-Authenticate"), c.challenge, "%s: %d %q, want %d and %q", c.name, reply.Status, reply.Header.Get("Www-Authenticate"), c.status, c.challenge)
	}
	reply, err := r.Front.Do(t.Context(), "GET", "/payments")
	if assert.NoErrorf(t, err, "no credential, DPoP required: %d %v %v", reply.Status, reply.Header, err) {
		if assert.Equalf(t, 401, reply.Status, "no credential, DPoP required: %v %v", reply.Header, err) {
			assert.Truef(t, strings.HasPrefix(reply.Header.Get("Www-Authenticate"), "DPoP "), "no credential, DPoP required: %d %v %v", reply.Status, reply.Header, err)
		}
	}
	// The same proof at the other sidecar, as a client with the same Host.
	other, err := r.Fronts[1].DoAs(t.Context(), strings.TrimPrefix(r.Front.URL, "http://"), "GET", "/", "Authorization", "DPoP "+token, "DPoP", used)
	if assert.NoErrorf(t, err, "a used proof at the other sidecar: %d %v", other.Status, err) {
		if assert.Equalf(t, 401, other.Status, "a used proof at the other sidecar: %v", err) {
			assert.Containsf(t, other.Header.Get("Www-Authenticate"), bad, "a used proof at the other sidecar: %d %v", other.Status, err)
		}
	}
	fresh := holder.proof("GET", url, token, nil)
	other, err = r.Fronts[1].DoAs(t.Context(), strings.TrimPrefix(r.Front.URL, "http://"), "GET", "/", "Authorization", "DPoP "+token, "DPoP", fresh)
	if assert.NoErrorf(t, err, "a fresh proof at the other sidecar: %d %v", other.Status, err) {
		assert.Equalf(t, 200, other.Status, "a fresh proof at the other sidecar: %v", err)
	}
	// Without Redis the sidecar cannot tell whether a proof is new: denied.
	r.Redis.Stop()
	reply, err = r.Front.Do(t.Context(), "GET", "/", "Authorization", "DPoP "+token, "DPoP", holder.proof("GET", url, token, nil))
	if assert.NoErrorf(t, err, "Redis down: %d %v", reply.Status, err) {
		assert.Equalf(t, 503, reply.Status, "Redis down: %v", err)
	}
	reply, err = r.Front.Do(t.Context(), "GET", "/", "Authorization", "Bearer "+plain)
	if assert.NoErrorf(t, err, "Redis down, unbound token: %d %v", reply.Status, err) {
		assert.Equalf(t, 200, reply.Status, "Redis down, unbound token: %v", err)
	}
}

// selfSigned makes a key pair with a self-signed certificate.
func selfSigned(t *testing.T, name string) (cert tls.Certificate, certPEM, keyPEM string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	certPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, certPEM, keyPEM
}

// A token bound to a client certificate is allowed only on connections with
// that certificate, as Envoy reports it.
func TestCertificateBoundToken(t *testing.T) {
	t.Parallel()
	throughDoors(t, testCertificateBoundToken)
}

// tlsTransport is a listener's TLS with a certificate, which asks for those of clients.
func tlsTransport(certificate, key, clientCA string) string {
	return fmt.Sprintf(`{name: envoy.transport_sockets.tls, typed_config: {
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: false, common_tls_context: {
            tls_certificates: [{certificate_chain: {inline_string: %s}, private_key: {inline_string: %s}}], validation_context: {trusted_ca: {inline_string: %s}}}}}`,
		quoted(certificate), quoted(key), quoted(clientCA))
}

func testCertificateBoundToken(t *testing.T, module bool) {
	t.Helper()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: "routes:\n  - {name: needed, match: {paths: [{prefix: /bank}]}, require: mtls}\n  - {name: rest}\n"})
	_, serverPEM, serverKey := selfSigned(t, "front")
	mine, minePEM, _ := selfSigned(t, "mine")
	theirs, theirsPEM, _ := selfSigned(t, "theirs")
	front := r.Door(t, module, r.Upstream.Addr, harness.FrontOptions{Timeout: 5 * time.Second, Extra: "include_peer_certificate: true",
		Transport: tlsTransport(serverPEM, serverKey, minePEM+theirsPEM)})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(serverPEM))
	bound := r.Token(map[string]any{"cnf": map[string]any{"x5t#S256": hash(string(mine.Certificate[0]))}})
	plain := r.Token(nil)
	forged := "Hash=" + fmt.Sprintf("%x", sha256.Sum256(mine.Certificate[0]))
	for _, c := range []struct {
		name, path, token string
		cert              *tls.Certificate
		header            string
		want              int
	}{
		{"the right certificate", "/", bound, &mine, "", 200},
		{"another certificate", "/", bound, &theirs, "", 401},
		{"no certificate", "/", bound, nil, "", 401},
		{"another certificate, and a header that claims the right one", "/", bound, &theirs, forged, 401},
		{"no certificate, and a header that claims the right one", "/", bound, nil, forged, 401},
		{"unbound token", "/", plain, &theirs, "", 200},
		{"unbound token, certificate required", "/bank", plain, &mine, "", 401},
		{"bound token, certificate required", "/bank", bound, &mine, "", 200},
	} {
		config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		if c.cert != nil {
			config.Certificates = []tls.Certificate{*c.cert}
		}
		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+front.Addr("front")+c.path, http.NoBody)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+c.token)
		if c.header != "" {
			req.Header.Set("X-Forwarded-Client-Cert", c.header)
		}
		resp, err := client.Do(req)
		require.NoErrorf(t, err, "%v %v", c.name, err)
		_ = resp.Body.Close()
		assert.Equalf(t, c.want, resp.StatusCode, "%s: (%s)", c.name, resp.Header.Get("Www-Authenticate"))
	}
}
