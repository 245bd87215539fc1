// Package cli tests the command line from outside, with scripts in testdata:
// arguments, output and exit codes.
package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func TestScripts(t *testing.T) {
	harness.NeedsProcess(t)
	binary, err := harness.Binary(false)
	require.NoError(t, err)
	scripts, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err, "no scripts")
	require.NotEmptyf(t, scripts, "no scripts: %v", err)
	issuer := authztest.NewIssuer(authztest.Named("https://issuer.example"), authztest.Offline())
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("TOKEN", issuer.Mint(map[string]any{"jti": "token-1"}))
			env.Setenv("EXPIRED", issuer.Mint(map[string]any{"exp": 1700000000, "iat": 1699999000}))
			if err := os.Symlink(binary, filepath.Join(env.WorkDir, "jwt-bouncer")); err != nil {
				return err
			}
			env.Setenv("DOCS", filepath.Join(harness.Root(), "docs"))
			env.Setenv("PATH", env.WorkDir+":"+env.Getenv("PATH"))
			// Scripts that need another configuration contain it.
			config := "issuers:\n  - {issuer: https://issuer.example, audiences: [api], jwks: " + filepath.Join(env.WorkDir, "jwks.json") + "}\nstore: sqlite://" + filepath.Join(env.WorkDir, "r.db") + "\n"
			if err := os.WriteFile(filepath.Join(env.WorkDir, "jwks.json"), issuer.JWKS(), 0o600); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(env.WorkDir, "c.yaml"), []byte(config), 0o600)
		},
	})
}
