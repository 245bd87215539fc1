package envoy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// serverTLS is the TLS side of the listener. Its files are read again when
// they have changed, at a handshake; Envoy keeps connections, so these are
// few. While new files are unusable the old ones serve on.
type serverTLS struct {
	cfg    TLSConfig
	logger *slog.Logger

	mu      sync.Mutex
	current *tls.Config
	stamps  []stamp
}

// stamp tells one state of a file from another.
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

// config is what the listener is given once; each handshake gets its own.
func (t *serverTLS) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.reloaded(), nil },
	}
}

func (t *serverTLS) reloaded() *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.stat(); !slices.Equal(now, t.stamps) {
		t.stamps = now
		c, err := t.load()
		if err != nil {
			t.logger.Error("listen.grpc_tls: the changed files cannot be used, the old certificate stays", "error", err)
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
		return nil, fmt.Errorf("client_ca: %s holds no certificate in PEM", t.cfg.ClientCA)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.VerifyConnection = t.admit
	return c, nil
}

// admit checks the name in a client certificate that is otherwise good.
func (t *serverTLS) admit(s tls.ConnectionState) error {
	if len(t.cfg.ClientNames) == 0 {
		return nil
	}
	if len(s.PeerCertificates) == 0 {
		return errors.New("no client certificate")
	}
	leaf := s.PeerCertificates[0]
	for _, want := range t.cfg.ClientNames {
		if slices.Contains(leaf.DNSNames, want) {
			return nil
		}
		for _, u := range leaf.URIs {
			if u.String() == want {
				return nil
			}
		}
	}
	return errors.New("the client certificate carries none of listen.grpc_tls.client_names")
}
