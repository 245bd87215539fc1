package policy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/policy"
)

// newCertificate returns a certificate as Envoy sends it, and its thumbprint in hex
// and base64url.
func newCertificate(t testing.TB) (encoded, hash, x5t string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	require.NoError(t, err)
	sum := sha256.Sum256(der)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20"), hex.EncodeToString(sum[:]), authztest.Base64URL(sum[:])
}

func TestCertificateBinding(t *testing.T) {
	t.Parallel()
	cert, hash, x5t := newCertificate(t)
	other, otherHash, _ := newCertificate(t)
	const allowed, mismatch = authz.ReasonAllowed, authz.ReasonBindingMismatch
	for name, tt := range map[string]struct {
		trust     bool
		peer      string
		forwarded []string
		want      authz.Reason
	}{
		"the certificate":                 {false, cert, nil, allowed},
		"followed by a chain":             {false, cert + other, nil, allowed},
		"another certificate":             {false, other, nil, mismatch},
		"preceded by another":             {false, other + cert, nil, mismatch},
		"none":                            {false, "", nil, mismatch},
		"not encoded":                     {false, "%zz", nil, mismatch},
		"not PEM":                         {false, "x", nil, mismatch},
		"a key instead":                   {false, url.PathEscape("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"), nil, mismatch},
		"too long":                        {false, cert + strings.Repeat("A", 1<<17), nil, mismatch},
		"forwarded, not trusted":          {false, "", []string{"Hash=" + hash}, mismatch},
		"forwarded, trusted":              {true, "", []string{`By=spiffe://a;Hash=` + hash + `;Subject="CN=a,O=\"b\";x";URI=spiffe://c;URI=x`}, allowed},
		"forwarded over the connection's": {true, other, []string{"Hash=" + hash}, allowed},
		"forwarded another":               {true, cert, []string{"Hash=" + otherHash}, mismatch},
		"trusted but absent":              {true, cert, nil, allowed},
		"forwarded Cert":                  {true, "", []string{`Cert="` + cert + `"`}, allowed},
		"forwarded both":                  {true, "", []string{`Cert="` + cert + `";Hash=` + strings.ToUpper(hash)}, allowed},
		"forwarded both, unlike":          {true, "", []string{`Cert="` + other + `";Hash=` + hash}, mismatch},
		"two headers":                     {true, "", []string{"Hash=" + hash, "Hash=" + hash}, mismatch},
		"two elements":                    {true, "", []string{"Hash=" + hash + ",Hash=" + otherHash}, mismatch},
		"two hashes":                      {true, "", []string{"Hash=" + hash + ";Hash=" + otherHash}, mismatch},
		"hidden in a quote":               {true, "", []string{`Subject="x;Hash=` + hash + `"`}, mismatch},
		"quote not closed":                {true, "", []string{`Hash="` + hash}, mismatch},
		"short hash":                      {true, "", []string{"Hash=" + hash[:32]}, mismatch},
		"empty hash":                      {true, cert, []string{"Hash="}, mismatch},
		"empty header":                    {true, cert, []string{""}, mismatch},
		"garbage":                         {true, cert, []string{";;;"}, mismatch},
		"trailing semicolon":              {true, cert, []string{"Hash=" + hash + ";"}, mismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			route := boundRoute(t, newBinding(t, func(c *policy.BindingConfig) { c.TrustForwardedCertificate = tt.trust }), "mtls")
			req := &authz.Request{Source: authz.Peer{Certificate: tt.peer}}
			for _, v := range tt.forwarded {
				req.Headers = append(req.Headers, authz.Header{Name: "x-forwarded-client-cert", Value: v})
			}
			fail := route.Admit(t.Context(), req, authz.Credential{Raw: "a.b.c", Scheme: "bearer"}, boundToken("a.b.c", map[string]any{"x5t#S256": x5t}), proofTime)
			require.Equal(t, tt.want, reason(fail), "%v", fail)
		})
	}
}

// Envoy's own process knows the certificate by its hash alone.
func TestCertificateBindingByHash(t *testing.T) {
	t.Parallel()
	cert, hash, x5t := newCertificate(t)
	_, otherHash, _ := newCertificate(t)
	const allowed, mismatch = authz.ReasonAllowed, authz.ReasonBindingMismatch
	for name, tt := range map[string]struct {
		peer authz.Peer
		want authz.Reason
	}{
		"the hash":                     {authz.Peer{CertificateSHA256: hash}, allowed},
		"in upper case":                {authz.Peer{CertificateSHA256: strings.ToUpper(hash)}, allowed},
		"another":                      {authz.Peer{CertificateSHA256: otherHash}, mismatch},
		"short":                        {authz.Peer{CertificateSHA256: hash[:62]}, mismatch},
		"long":                         {authz.Peer{CertificateSHA256: hash + "00"}, mismatch},
		"not hex":                      {authz.Peer{CertificateSHA256: strings.Repeat("x", 64)}, mismatch},
		"with its certificate":         {authz.Peer{Certificate: cert, CertificateSHA256: hash}, allowed},
		"with another's certificate":   {authz.Peer{Certificate: cert, CertificateSHA256: otherHash}, mismatch},
		"with a malformed certificate": {authz.Peer{Certificate: "x", CertificateSHA256: hash}, mismatch},
	} {
		token := boundToken("a.b.c", map[string]any{"x5t#S256": x5t})
		fail := boundRoute(t, newBinding(t), "mtls").Admit(t.Context(), &authz.Request{Source: tt.peer}, authz.Credential{Raw: "a.b.c", Scheme: "bearer"}, token, proofTime)
		require.Equal(t, tt.want, reason(fail), "%s: %v", name, fail)
	}
}

// A token bound to both a key and a certificate needs both.
func TestBothBindings(t *testing.T) {
	t.Parallel()
	_, _, x5t := newCertificate(t)
	token := boundToken("a.b.c", map[string]any{"x5t#S256": x5t, "jkt": strings.Repeat("A", 43)})
	fail := boundRoute(t, newBinding(t), "").Admit(t.Context(), &authz.Request{}, authz.Credential{Raw: "a.b.c", Scheme: "dpop"}, token, proofTime)
	require.Equal(t, authz.ReasonBindingMismatch, reason(fail))
}
