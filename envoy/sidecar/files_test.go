package sidecar

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/introspect"
	"jwtbouncer/authz/issuer"
)

// CheckFiles checks every key that names a file, new keys included.
func TestEveryNamedFileIsChecked(t *testing.T) {
	t.Parallel()
	s := Defaults()
	s.Issuers = make([]issuer.Config, 1)
	s.Introspection = make([]introspect.Config, 1)
	s.API.Clients = make([]httpapi.ClientConfig, 1)
	s.Issuers[0].JWKS = "/nowhere/issuers[0].jwks"
	want := []string{"issuers[0].jwks"}
	var fill func(v reflect.Value, at string)
	fill = func(v reflect.Value, at string) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				name, opts, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
				path := strings.TrimPrefix(at+"."+name, ".")
				if opts == "inline" {
					path = at
				}
				f := v.Field(i)
				if f.Kind() == reflect.String && (strings.HasSuffix(name, "_file") || slices.Contains([]string{"certificate", "client_ca", "key"}, name)) {
					f.SetString("/nowhere/" + path)
					want = append(want, path)
				} else if v.Type().Field(i).IsExported() {
					fill(f, path)
				}
			}
		case reflect.Slice:
			for i := range v.Len() {
				fill(v.Index(i), at+"[0]")
			}
		}
	}
	fill(reflect.ValueOf(&s).Elem(), "")
	require.GreaterOrEqualf(t, len(want), 16, "found only %v", want)
	err := s.CheckFiles("f")
	for _, key := range want {
		if assert.Errorf(t, err, "%s is not read", key) {
			assert.Containsf(t, err.Error(), key+": ", "%s is not read", key)
		}
	}
}

func TestCheckFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	good := Defaults()
	good.Issuers = []issuer.Config{{JWKS: file("keys", string(authztest.NewIssuer(authztest.Offline()).JWKS()))}, {JWKS: "https://issuer.example/keys"}}
	good.API.TokenFile = file("token", "a-token-of-at-least-16-bytes\n")
	good.StorePasswordFile = file("password", "secret\n")
	assert.NoError(t, good.CheckFiles("f"))
	for want, change := range map[string]func(*Settings){
		"issuers[0].jwks: ":             func(s *Settings) { s.Issuers = []issuer.Config{{JWKS: file("no keys", `{"keys":[]}`)}} },
		"api.token_file: ":              func(s *Settings) { s.API.TokenFile = file("short", "short\n") },
		"store_password_file: ":         func(s *Settings) { s.StorePasswordFile = file("empty", "\n") },
		"redis.tls.ca_file: ":           func(s *Settings) { s.Redis.TLS.CAFile = file("no PEM", "x") },
		"listen.grpc_tls.certificate: ": func(s *Settings) { s.Listen.TLS.Certificate, s.Listen.TLS.Key = file("c", "x"), file("k", "y") },
		"no such file":                  func(s *Settings) { s.StatusLists.CAFile = filepath.Join(dir, "away") },
	} {
		s := good
		change(&s)
		err := s.CheckFiles("f")
		if assert.Errorf(t, err, "want %q", want) {
			if assert.Containsf(t, err.Error(), want, "%v", err) {
				assert.NotContainsf(t, err.Error(), "short\n", "want %q: %v", want, err)
			}
		}
	}
}
