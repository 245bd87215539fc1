package sidecar

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/config"
)

const referenceHead = `# Configuration

The configuration is one YAML file, given with "--config". To check it, run
"jwt-bouncer config check FILE": it reports all errors at once, each with its line, unknown keys
included. "--files" also checks the secrets, certificates and key sets that the file names. For
completion in an editor, use [config.schema.json](config.schema.json), which
"jwt-bouncer config schema" prints.

Flags override the environment, which overrides the file. Keys inside lists can only be set in the
file. Lists in environment variables are separated by commas. An empty variable counts as not set.
An empty flag counts as set: "serve --http ''" serves no HTTP; for "--grpc", "--store" and "--redis"
it is an error.

Besides the variables in the table, four variables of the product's predecessor are supported:
"REDIS_HOST" and "REDIS_PORT" (if the file names no Redis), "CACHE_TTL" (seconds; an upper limit for
every cached entry) and "ENABLE_CACHE".

Secrets come from files ("*_file" keys) or the environment. Flags with a password in their URL are
rejected. Routes are reloaded when the file changes and on SIGHUP, all or nothing; every other
change needs a restart, and the log says so.

This page is generated ("UPDATE=1 go test ./envoy/sidecar").

`

// The generated pages are up to date.
func TestDocumentsAreCurrent(t *testing.T) {
	t.Parallel()
	d := Defaults()
	schema, err := config.Schema(&d, "urn:jwt-bouncer:config", "jwt-bouncer configuration")
	require.NoError(t, err)
	for name, want := range map[string]string{
		"configuration.md":   strings.ReplaceAll(referenceHead, `"`, "`") + config.Reference(&d),
		"config.schema.json": string(schema) + "\n",
	} {
		path := filepath.Join("..", "..", "docs", name)
		if os.Getenv("UPDATE") != "" {
			require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
		}
		got, err := os.ReadFile(path)
		if assert.NoErrorf(t, err, "docs/%s is stale; run UPDATE=1 go test ./envoy/sidecar", name) {
			assert.Equalf(t, want, string(got), "docs/%s is stale (%v); run UPDATE=1 go test ./envoy/sidecar", name, err)
		}
	}
}

// The configuration in README is the whole story of a first installation: it
// must load.
func TestReadmeConfigurationIsGood(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	blocks := fenced(string(text), "yaml")
	require.NotEmpty(t, blocks, "README has no yaml block")
	for _, b := range blocks {
		_, err := parse("README.md", []byte(b), nil)
		assert.NoError(t, err)
	}
}
