package sidecar

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/config"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/secretfile"
)

// The secrets that the manifests publish cannot be used.
func TestPublishedSecretsAreRefused(t *testing.T) {
	t.Parallel()
	const common = "../../k8s/components/common/"
	assert.ErrorContains(t, httpapi.CheckTokenFile(common+"api-token"), "line 1: the token begins with CHANGE-ME")
	text, err := os.ReadFile(common + "secrets.env")
	require.NoError(t, err)
	published := 0
	for line := range strings.Lines(string(text)) {
		_, secret, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		published++
		assert.ErrorIs(t, secretfile.CheckPlaceholder(secret), secretfile.ErrPlaceholder, line)
	}
	assert.NotZero(t, published)
}

// A placeholder is refused wherever a secret is read: in URLs, in the file and the
// environment, and in every file that CheckFiles knows.
func TestPlaceholdersAreRefused(t *testing.T) {
	t.Parallel()
	const valid = "issuers: [{issuer: https://a.example, audiences: [api]}]\n"
	for text, key := range map[string]string{
		"store: postgres://u:CHANGE-ME-x@db/d":                                        "store",
		"store: postgres://u@db/d?password=CHANGE-ME-x":                               "store",
		"store: postgres://u@db/d?sslpassword=CHANGE%2DME-x":                          "store",
		"store: postgres://u@db/d\nstore_standby: ['postgres://u:CHANGE-ME-x@db2/d']": "store_standby[0]",
		"redis: redis://:CHANGE-ME-x@cache:6379/0":                                    "redis.url",
		"redis: {addrs: ['cache:6379'], password: CHANGE-ME-x}":                       "redis.password",
		"redis: {addrs: ['cache:6379'], password: Change-Me-x}":                       "redis.password",
	} {
		_, err := parse("c.yaml", []byte(valid+text), nil)
		var wrong config.Error
		require.ErrorAs(t, err, &wrong, text)
		assert.Contains(t, err.Error(), ": "+key+": the password begins with CHANGE-ME", text)
		assert.NotContains(t, strings.ToUpper(err.Error()), "ME-X", "the error repeats the secret")
	}
	env := func(name string) (string, bool) {
		return "postgres://u:CHANGE-ME-x@db/d", name == "JWT_BOUNCER_STORE"
	}
	_, err := parse("c.yaml", []byte(valid), env)
	assert.ErrorContains(t, err, "environment variable JWT_BOUNCER_STORE: store: the password begins with CHANGE-ME")

	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte("CHANGE-ME-0123456789abcdef\n"), 0o600))
	s := Defaults()
	s.StorePasswordFile, s.Redis.PasswordFile, s.API.TokenFile = path, path, path
	s.API.Clients = []httpapi.ClientConfig{{SecretFile: path}}
	err = s.CheckFiles("c.yaml")
	for _, key := range []string{"store_password_file", "redis.password_file", "api.token_file", "api.clients[0].secret_file"} {
		assert.ErrorContains(t, err, key+": ")
	}
	assert.Equal(t, 4, strings.Count(err.Error(), "begins with CHANGE-ME"))
}
