package sidecar

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"jwtbouncer/authz"
	"jwtbouncer/authz/config"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/jose"
)

// namedFile is a file that the configuration names.
type namedFile struct {
	key   string // of the configuration
	path  string
	check func(path string) error
}

// CheckFiles reads every file that the configuration names and returns what is
// wrong with them, all of it: faults that a text alone does not show, and that
// would keep a sidecar from starting or from getting keys. name is the
// configuration's own, for messages.
func (s *Settings) CheckFiles(name string) error {
	var errs config.Error
	for _, f := range s.files() {
		if f.path == "" {
			continue
		}
		if err := f.check(f.path); err != nil {
			errs = append(errs, authz.InvalidError{Source: name, Field: f.key, Detail: err.Error()})
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}

func (s *Settings) files() []namedFile {
	t := s.Listen.TLS
	pair := func(certificate, key string) func(string) error {
		return func(string) error { _, err := tls.LoadX509KeyPair(certificate, key); return err }
	}
	out := []namedFile{
		{"listen.grpc_tls.certificate", t.Certificate, pair(t.Certificate, t.Key)},
		{"listen.grpc_tls.key", t.Key, readable},
		{"listen.grpc_tls.client_ca", t.ClientCA, holdsCertificates},
		{"store_password_file", s.StorePasswordFile, holdsSecret},
		{"redis.password_file", s.Redis.PasswordFile, holdsSecret},
		{"redis.sentinel_password_file", s.Redis.SentinelPasswordFile, holdsSecret},
		{"redis.tls.ca_file", s.Redis.TLS.CAFile, holdsCertificates},
		{"redis.tls.cert_file", s.Redis.TLS.CertFile, pair(s.Redis.TLS.CertFile, s.Redis.TLS.KeyFile)},
		{"redis.tls.key_file", s.Redis.TLS.KeyFile, readable},
		{"status_lists.ca_file", s.StatusLists.CAFile, holdsCertificates},
		{"api.token_file", s.API.TokenFile, httpapi.CheckTokenFile},
	}
	for i, c := range s.API.Clients {
		out = append(out, namedFile{fmt.Sprintf("api.clients[%d].secret_file", i), c.SecretFile, httpapi.CheckTokenFile})
	}
	for i, c := range s.Issuers {
		at := fmt.Sprintf("issuers[%d].", i)
		out = append(out, namedFile{at + "ca_file", c.CAFile, holdsCertificates})
		if path := strings.TrimPrefix(c.JWKS, "file://"); !strings.Contains(path, "://") {
			out = append(out, namedFile{at + "jwks", path, holdsKeys})
		}
	}
	for i, c := range s.Introspection {
		at := fmt.Sprintf("introspection[%d].", i)
		out = append(out, namedFile{at + "ca_file", c.CAFile, holdsCertificates}, namedFile{at + "client_secret_file", c.ClientSecretFile, holdsSecret})
	}
	return out
}

func readable(path string) error {
	_, err := os.ReadFile(path)
	return err
}

func holdsSecret(path string) error {
	b, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(b)) == "" {
		err = fmt.Errorf("%s is empty", path)
	}
	return err
}

func holdsCertificates(path string) error {
	b, err := os.ReadFile(path)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(b) {
		err = fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return err
}

func holdsKeys(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	set, err := jose.ParseJWKS(b)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case set.Len() == 0:
		return fmt.Errorf("%s holds no usable key", path)
	}
	return nil
}
