package envoy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"
)

// serverTLS is the TLS configuration of the gRPC listener. Each handshake looks whether the files
// have changed and reloads them; there are few handshakes, because Envoy keeps its connections.
// If the new files cannot be used, the old certificate stays in use.
type serverTLS struct {
	cfg    TLSConfig
	logger *slog.Logger

	mu      sync.Mutex
	current *tls.Config
	stamps  []stamp // of the files when they were last loaded
}

// stamp distinguishes two states of a file.
type stamp struct {
	modified time.Time
	size     int64
}

func newServerTLS(cfg TLSConfig, logger *slog.Logger) (*serverTLS, error) {
	t := &serverTLS{cfg: cfg, logger: logger}
	var err error
	t.stamps = t.stat()
	if t.current, err = t.load(); err != nil {
		return nil, fmt.Errorf("listen.grpc_tls: %w", err)
	}
	return t, nil
}

// config returns the configuration of the listener. It loads the current one at each handshake.
func (t *serverTLS) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.reloaded(), nil },
	}
}

// reloaded returns the current configuration, after reloading the files if they have changed.
func (t *serverTLS) reloaded() *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.stat(); !slices.Equal(now, t.stamps) {
		t.stamps = now
		c, err := t.load()
		if err != nil {
			t.logger.Error("listen.grpc_tls: cannot load the changed files; the old certificate stays in use", "error", err)
			return t.current
		}
		t.current = c
	}
	return t.current
}

func (t *serverTLS) stat() []stamp {
	var stamps []stamp
	for _, name := range []string{t.cfg.Certificate, t.cfg.Key, t.cfg.ClientCA} {
		var s stamp
		if name != "" {
			if info, err := os.Stat(name); err == nil {
				s = stamp{info.ModTime(), info.Size()}
			}
		}
		stamps = append(stamps, s)
	}
	return stamps
}

func (t *serverTLS) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(t.cfg.Certificate, t.cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{cert}}
	if t.cfg.ClientCA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(t.cfg.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("client_ca: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("client_ca: %s contains no PEM certificate", t.cfg.ClientCA)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.VerifyConnection = t.admit
	return c, nil
}

// admit checks the names in a client certificate that has been verified.
func (t *serverTLS) admit(s tls.ConnectionState) error {
	if len(t.cfg.ClientNames) == 0 {
		return nil
	}
	if len(s.PeerCertificates) == 0 {
		return errors.New("no client certificate")
	}
	leaf := s.PeerCertificates[0]
	for _, want := range t.cfg.ClientNames {
		if slices.Contains(leaf.DNSNames, want) || slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == want }) {
			return nil
		}
	}
	return errors.New("the client certificate contains none of listen.grpc_tls.client_names")
}
