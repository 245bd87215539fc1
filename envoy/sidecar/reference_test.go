package sidecar

import (
	"os"
	"path/filepath"
	"testing"

	"jwtbouncer/authz/config"
)

const referenceHead = `# Configuration

One YAML file, given with ` + "`--config`" + `. It is read strictly: an unknown key is an error with its line, and all faults are reported at once
(` + "`jwt-bouncer config check FILE`; with `--files` also what is wrong with the secrets, certificates and key sets it names" + `). Flags win over the environment, the environment over the file. Keys inside lists can only be set in the file.
Lists in environment variables are separated by commas. A variable that is empty counts as not set. A flag that is empty was given: ` + "`serve --http ''`" + ` serves no HTTP, and of ` + "`--grpc`, `--store` and `--redis`" + ` it is an error.
Editors can use [config.schema.json](config.schema.json), which ` + "`jwt-bouncer config schema`" + ` prints.

Besides the variables in the table, four of the scheme this product grew out of are understood: ` + "`REDIS_HOST`" + ` and ` + "`REDIS_PORT`" + ` (used when the file
names no Redis), ` + "`CACHE_TTL`" + ` (seconds; an upper limit on any cached entry) and ` + "`ENABLE_CACHE`" + `.

Secrets come from files (` + "`*_file`" + ` keys) or the environment, never from flags: a URL with a password in it is refused there. Routes and their rules are reloaded when the file changes or on SIGHUP, all or
nothing; every other change needs a restart, and the log says so.

This page is generated (` + "`UPDATE=1 go test ./envoy/sidecar`" + `).

`

// What docs say about the configuration is what the code does.
func TestDocumentsAreCurrent(t *testing.T) {
	t.Parallel()
	d := Defaults()
	schema, err := config.Schema(&d, "urn:jwt-bouncer:config", "jwt-bouncer configuration")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"configuration.md":   referenceHead + config.Reference(&d),
		"config.schema.json": string(schema) + "\n",
	} {
		path := filepath.Join("..", "..", "docs", name)
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("docs/%s is stale (%v); run UPDATE=1 go test ./envoy/sidecar", name, err)
		}
	}
}

// The configuration in README is the whole story of a first installation: it
// must load.
func TestReadmeConfigurationIsGood(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := fenced(string(text), "yaml")
	if len(blocks) == 0 {
		t.Fatal("README has no yaml block")
	}
	for _, b := range blocks {
		if _, err := parse("README.md", []byte(b), nil); err != nil {
			t.Error(err)
		}
	}
}
