package sidecar

import (
	"crypto/tls"
	"fmt"
	"os"
	"strings"

	"jwtbouncer/authz"
	"jwtbouncer/authz/config"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/jose"
	"jwtbouncer/authz/secretfile"
)

// namedFile is a file that is named in the configuration.
type namedFile struct {
	key   string // of the configuration
	path  string
	check func(path string) error
}

// CheckFiles reads every file that is named in the configuration and returns all
// errors that would keep a sidecar from starting or from getting keys. name is
// that of the configuration, for messages.
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
	out := []namedFile{
		{"listen.grpc_tls.certificate", t.Certificate, pair(t.Certificate, t.Key)},
		{"listen.grpc_tls.key", t.Key, checkReadable},
		{"listen.grpc_tls.client_ca", t.ClientCA, checkCertificates},
		{"store_password_file", s.StorePasswordFile, checkSecret},
		{"redis.password_file", s.Redis.PasswordFile, checkSecret},
		{"redis.sentinel_password_file", s.Redis.SentinelPasswordFile, checkSecret},
		{"redis.tls.ca_file", s.Redis.TLS.CAFile, checkCertificates},
		{"redis.tls.cert_file", s.Redis.TLS.CertFile, pair(s.Redis.TLS.CertFile, s.Redis.TLS.KeyFile)},
		{"redis.tls.key_file", s.Redis.TLS.KeyFile, checkReadable},
		{"api.token_file", s.API.TokenFile, httpapi.CheckTokenFile},
	}
	out = append(out, servers("status_lists.", s.StatusLists.Config)...)
	for i, c := range s.API.Clients {
		out = append(out, namedFile{fmt.Sprintf("api.clients[%d].secret_file", i), c.SecretFile, httpapi.CheckSecretFile})
	}
	for i, c := range s.Issuers {
		at := fmt.Sprintf("issuers[%d].", i)
		out = append(out, servers(at, c.Config)...)
		out = append(out, namedFile{at + "bearer_token_file", c.BearerTokenFile, checkBearerToken})
		if path := strings.TrimPrefix(c.JWKS, "file://"); !strings.Contains(path, "://") {
			out = append(out, namedFile{at + "jwks", path, func(path string) error { return checkKeys(path, c.SetRules(s.Limits)) }})
		}
	}
	for i, c := range s.EventStreams {
		at := fmt.Sprintf("event_streams[%d].", i)
		out = append(out, servers(at, c.Config)...)
		out = append(out, namedFile{at + "token_file", c.TokenFile, checkBearerToken}, namedFile{at + "client_secret_file", c.ClientSecretFile, checkSecret})
	}
	for i, c := range s.Introspection {
		at := fmt.Sprintf("introspection[%d].", i)
		out = append(out, servers(at, c.Config)...)
		out = append(out, namedFile{at + "client_secret_file", c.ClientSecretFile, checkSecret})
	}
	return out
}

// servers are the files with which a server outside is reached.
func servers(at string, c fetch.Config) []namedFile {
	return []namedFile{
		{at + "ca_file", c.CAFile, checkCertificates},
		{at + "cert_file", c.CertFile, pair(c.CertFile, c.KeyFile)},
		{at + "key_file", c.KeyFile, checkReadable},
	}
}

func pair(certificate, key string) func(string) error {
	return func(string) error { _, err := tls.LoadX509KeyPair(certificate, key); return err }
}

func checkReadable(path string) error {
	_, err := os.ReadFile(path)
	return err
}

func checkSecret(path string) error {
	_, err := secretfile.Read(path)
	return err
}

func checkBearerToken(path string) error {
	_, err := fetch.ReadBearerToken(path)
	return err
}

func checkCertificates(path string) error {
	_, err := fetch.ReadAuthorities(path)
	return err
}

func checkKeys(path string, rules jose.SetRules) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	set, err := jose.ParseJWKS(b, rules)
	switch {
	case err != nil:
		return fmt.Errorf("%s where a JWK set is needed: %w", fetch.Document{Body: b, From: path}, err)
	case set.Len() == 0:
		return fmt.Errorf("%s contains no usable key", path)
	}
	return nil
}
