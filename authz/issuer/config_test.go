package issuer_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/issuer"
)

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	good := issuer.Config{Issuer: "https://issuer.example", Audiences: []string{"api"}}
	tests := map[string]struct {
		change func(*issuer.Config)
		errors []string // prefix of each, in order
	}{
		"good":               {func(*issuer.Config) {}, nil},
		"good file":          {func(c *issuer.Config) { c.Issuer, c.JWKS = "any text", "keys/jwks.json" }, nil},
		"good url":           {func(c *issuer.Config) { c.Issuer, c.JWKS = "any text", "http://localhost:8080/jwks?v=1" }, nil},
		"all at once":        {func(c *issuer.Config) { *c = issuer.Config{Algorithms: []string{"HS256", "RS256", "none"}} }, []string{"issuer:", "audiences:", "algorithms[0]:", "algorithms[2]:"}},
		"discovery of text":  {func(c *issuer.Config) { c.Issuer = "issuer" }, []string{"jwks:"}},
		"issuer query":       {func(c *issuer.Config) { c.Issuer += "?a=b" }, []string{"issuer:"}},
		"ftp":                {func(c *issuer.Config) { c.JWKS = "ftp://host/x" }, []string{"jwks:"}},
		"password":           {func(c *issuer.Config) { c.JWKS = "https://u:p@host/x" }, []string{"jwks:"}},
		"no host":            {func(c *issuer.Config) { c.JWKS = "https:///x" }, []string{"jwks:"}},
		"fragment":           {func(c *issuer.Config) { c.JWKS = "https://host/x#y" }, []string{"jwks:"}},
		"relative file URL":  {func(c *issuer.Config) { c.JWKS = "file://keys.json" }, []string{"jwks:"}},
		"ca for a file":      {func(c *issuer.Config) { c.JWKS, c.CAFile = "/keys.json", "ca.pem" }, []string{"ca_file:"}},
		"proxy for a file":   {func(c *issuer.Config) { c.JWKS, c.Proxy = "/keys.json", "http://proxy" }, []string{"proxy:"}},
		"token for a file":   {func(c *issuer.Config) { c.JWKS, c.BearerTokenFile = "/keys.json", "token" }, []string{"bearer_token_file:"}},
		"token without TLS":  {func(c *issuer.Config) { c.JWKS, c.BearerTokenFile = "http://host/keys", "token" }, []string{"bearer_token_file:"}},
		"token on loopback":  {func(c *issuer.Config) { c.JWKS, c.BearerTokenFile = "http://127.0.0.1:8001/keys", "token" }, nil},
		"certificate alone":  {func(c *issuer.Config) { c.CertFile = "cert.pem" }, []string{"cert_file:"}},
		"use of encryption":  {func(c *issuer.Config) { c.KeyUses = []string{"sig", "enc", ""} }, []string{"key_uses[1]:", "key_uses[2]:"}},
		"empty audience":     {func(c *issuer.Config) { c.Audiences = []string{"a", ""} }, []string{"audiences[1]:"}},
		"typ spelling":       {func(c *issuer.Config) { c.Types = []string{"", "JWT", "application/at+jwt"} }, []string{"types[1]:", "types[2]:"}},
		"long leeway":        {func(c *issuer.Config) { c.Leeway = time.Hour }, []string{"leeway:"}},
		"short refresh":      {func(c *issuer.Config) { c.RefreshInterval = time.Second }, []string{"refresh_interval:"}},
		"no cooldown":        {func(c *issuer.Config) { c.RefreshCooldown = time.Millisecond }, []string{"refresh_cooldown:"}},
		"endless fetch":      {func(c *issuer.Config) { c.FetchTimeout = time.Hour }, []string{"fetch_timeout:"}},
		"negative key age":   {func(c *issuer.Config) { c.MaxKeyAge = -1 }, []string{"max_key_age:"}},
		"NUL in issuer":      {func(c *issuer.Config) { c.Issuer, c.JWKS = "a\x00b", "/f" }, []string{"issuer:"}},
		"long issuer":        {func(c *issuer.Config) { c.Issuer, c.JWKS = strings.Repeat("i", 1025), "/f" }, []string{"issuer:"}},
		"unparseable issuer": {func(c *issuer.Config) { c.Issuer = "https://[" }, []string{"jwks:"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := good
			test.change(&c)
			var got []string
			c.Validate(func(path, format string, args ...any) { got = append(got, path+": "+fmt.Sprintf(format, args...)) })
			require.Len(t, got, len(test.errors), "%q", got)
			for i, prefix := range test.errors {
				require.True(t, strings.HasPrefix(got[i], prefix), "%q", got[i])
			}
			v, err := issuer.NewVerifier([]issuer.Config{c}, issuer.VerifierOptions{})
			if len(test.errors) > 0 {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			v.Close()
		})
	}
}

func TestNewVerifierErrors(t *testing.T) {
	t.Parallel()
	good := issuer.Config{Issuer: "https://issuer.example", Audiences: []string{"api"}}
	_, err := issuer.NewVerifier(nil, issuer.VerifierOptions{})
	require.ErrorContains(t, err, "no issuer")
	_, err = issuer.NewVerifier([]issuer.Config{good, good}, issuer.VerifierOptions{})
	require.ErrorContains(t, err, "issuers[1].issuer: duplicate issuer")
	for _, o := range []issuer.VerifierOptions{{MaxTokenTTL: -1}, {Limits: issuer.LimitsConfig{TokenBytes: -1}}, {Leeway: time.Hour}} {
		_, err = issuer.NewVerifier([]issuer.Config{good}, o)
		require.Error(t, err)
	}
}
