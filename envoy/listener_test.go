package envoy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
)

// socketDir returns a temporary directory with a short path. That of t.TempDir contains the name
// of the test, and the path of a socket is limited to 107 bytes.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "jb")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "authz.sock")
	cfg := testConfig()
	cfg.Listen.GRPC = "unix://" + path
	r := run(t, allowAll(), cfg, Options{})
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.ModeSocket|0o660, info.Mode())
	resp, err := r.auth.Check(t.Context(), checkRequest(nil))
	require.NoError(t, err)
	assert.Equal(t, int32(codes.OK), resp.GetStatus().GetCode())

	_, err = Listen(cfg.Listen)
	require.ErrorContains(t, err, "in use", "a socket in use is not replaced")
	_, err = r.auth.Check(t.Context(), checkRequest(nil))
	require.NoError(t, err)
	require.NoError(t, r.server.Drain(t.Context()))
	assert.NoFileExists(t, path)
}

func TestStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(socketDir(t), "authz.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	dead.SetUnlinkOnClose(false)
	require.NoError(t, dead.Close())
	require.FileExists(t, path)
	l, err := Listen(ListenConfig{GRPC: "unix://" + path})
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

func TestListenRefuses(t *testing.T) {
	t.Parallel()
	dir := socketDir(t)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o600))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(file, link))
	long := "/" + strings.Repeat("a", maxSocketPath)
	for address, want := range map[string]string{
		"unix://" + file:                    "not a socket",
		"unix://" + link:                    "not a socket",
		"unix://" + dir:                     "not a socket",
		"unix://" + dir + "/missing/a.sock": "must exist",
		"unix://" + long:                    "107",
		"unix:/run/x.sock":                  "unix:///run/x.sock",
		"unix://relative.sock":              "absolute",
		"unix:///a\x00b":                    "NUL",
		"localhost":                         "host:port",
		"127.0.0.1:":                        "host:port",
		"127.0.0.1:99999":                   "not a port",
		"":                                  "host:port",
		"256.1.1.1:0":                       "listen.grpc",
	} {
		l, err := Listen(ListenConfig{GRPC: address})
		require.ErrorContains(t, err, want, address)
		assert.Nil(t, l)
	}
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "precious", string(content))
	_, _, err = splitAddress("unix://" + long[:maxSocketPath])
	require.NoError(t, err)
}

// authority is a certificate authority for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	next int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), next: 2}
}

// issue returns a certificate for names and its key, both in PEM.
func (a *authority) issue(t *testing.T, names ...string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a.next++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	for _, n := range names {
		if u, err := url.Parse(n); err == nil && u.Scheme != "" {
			tmpl.URIs = append(tmpl.URIs, u)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, k.Public(), a.key)
	require.NoError(t, err)
	b, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	ca, stranger := newAuthority(t), newAuthority(t)
	cert, key := ca.issue(t, "sidecar.test")
	cfg := testConfig()
	cfg.Listen.TLS = TLSConfig{
		Certificate: write("cert.pem", cert), Key: write("key.pem", key), ClientCA: write("ca.pem", ca.pem),
		ClientNames: []string{"spiffe://mesh/envoy", "envoy.test"},
	}
	r := run(t, allowAll(), cfg, Options{})
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	call := func(t *testing.T, client *tls.Certificate) error {
		t.Helper()
		c := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		if client != nil {
			c.Certificates = []tls.Certificate{*client}
		}
		conn, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(credentials.NewTLS(c)))
		require.NoError(t, err)
		defer conn.Close()
		_, err = authv3.NewAuthorizationClient(conn).Check(t.Context(), checkRequest(nil))
		return err
	}
	pair := func(a *authority, names ...string) *tls.Certificate {
		c, k := a.issue(t, names...)
		p, err := tls.X509KeyPair(c, k)
		require.NoError(t, err)
		return &p
	}
	require.NoError(t, call(t, pair(ca, "spiffe://mesh/envoy")))
	require.NoError(t, call(t, pair(ca, "envoy.test")))
	require.Error(t, call(t, nil), "no certificate")
	require.Error(t, call(t, pair(ca, "spiffe://mesh/other")), "another name")
	require.Error(t, call(t, pair(stranger, "spiffe://mesh/envoy")), "another authority")

	// An incomplete rotation keeps the old certificate in use, a complete one replaces it.
	serial := func() string {
		c, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{*pair(ca, "envoy.test")}, NextProtos: []string{"h2"}})
		require.NoError(t, err)
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	cert, key = ca.issue(t, "sidecar.test")
	write("cert.pem", append(cert, '\n'))
	assert.Equal(t, before, serial(), "certificate and key do not match")
	write("key.pem", append(key, '\n'))
	assert.NotEqual(t, before, serial())
}

func TestUnusableTLSFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t)
	cert, key := ca.issue(t, "x")
	certFile, keyFile, junk := filepath.Join(dir, "c"), filepath.Join(dir, "k"), filepath.Join(dir, "j")
	require.NoError(t, os.WriteFile(certFile, cert, 0o600))
	require.NoError(t, os.WriteFile(keyFile, key, 0o600))
	require.NoError(t, os.WriteFile(junk, []byte("junk"), 0o600))
	for _, c := range []TLSConfig{
		{Certificate: "/missing", Key: keyFile},
		{Certificate: certFile, Key: junk},
		{Certificate: certFile, Key: keyFile, ClientCA: "/missing"},
		{Certificate: certFile, Key: keyFile, ClientCA: junk},
	} {
		cfg := testConfig()
		cfg.Listen.TLS = c
		cfg.DecisionLog.Decisions = logNone
		_, err := NewServer(allowAll(), cfg, Options{})
		require.ErrorContains(t, err, "listen.grpc_tls", fmt.Sprint(c))
	}
}
