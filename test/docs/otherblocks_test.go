package docs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/scanner"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/test/harness"
)

func isAPIJSON(b block) bool { return b.language == "json" }

// checkAPIJSON holds the block to the one schema of the OpenAPI document that has
// all of its members.
func checkAPIJSON(t *testing.T, b block) error {
	var members map[string]any
	if err := json.Unmarshal([]byte(b.text), &members); err != nil {
		return err
	}
	d := httpapitest.New(t, nil).Document()
	schemas, _ := d.At("components", "schemas")
	var fit []string
	for name, s := range schemas.(map[string]any) {
		properties, _ := s.(map[string]any)["properties"].(map[string]any)
		if len(members) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(members)), func(m string) bool { _, ok := properties[m]; return !ok }) {
			fit = append(fit, name)
		}
	}
	if len(fit) != 1 {
		return fmt.Errorf("%d schemas of the OpenAPI document have its members (%v), want 1", len(fit), fit)
	}
	return d.Check("/components/schemas/"+fit[0], []byte(b.text))
}

func isSQL(b block) bool { return b.language == "sql" }

// runSQL runs the block on a server of its own, because roles belong to the whole
// server: one that prepares roles before any migration and is followed by a
// migration as the owner that it makes, every other one after a migration.
func runSQL(t *testing.T, b block) error {
	pg := harness.OwnPostgres(t)
	prepares := strings.Contains(b.text, "create role authz_owner")
	if !prepares {
		migrate(t, pg.URL)
		pg.Exec(t, "create role some_login login")
	}
	c := pg.Connect(t)
	if _, err := c.Exec(t.Context(), strings.ReplaceAll(b.text, "some_database", pg.Database), pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	if prepares {
		migrate(t, strings.Replace(pg.URL, "//postgres@", "//authz_owner@", 1))
		var superuser bool
		require.NoError(t, c.QueryRow(t.Context(), "select rolsuper from pg_roles where rolname = 'authz_owner'").Scan(&superuser))
		if superuser {
			return errors.New("the owner is a superuser")
		}
	}
	return nil
}

func migrate(t *testing.T, url string) {
	t.Helper()
	config := harness.WriteFile(t, harness.Dir(t), "jwt-bouncer.yaml", ownIssuers+"store: "+url+"\n")
	r := harness.Run(t, "", "--config", config, "migrate")
	require.Zero(t, r.Code, "%s%s", r.Stdout, r.Stderr)
}

func isExcerpt(b block) bool { return b.language == "go" }

// compareExcerpt finds each line of the block, without its comment and cut where
// it has an ellipsis, in one of the product's files.
func compareExcerpt(_ *testing.T, b block) error {
	files, err := filepath.Glob(filepath.Join(harness.Root(), "cache", "*.go"))
	if err != nil {
		return err
	}
	best := []string{"no file"}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		have := tokens(source)
		var missing []string
		for line := range strings.Lines(b.text) {
			if strings.Contains(line, "→") {
				continue // says in words what the code does
			}
			code, _, _ := strings.Cut(line, "//")
			for part := range strings.SplitSeq(code, "…") {
				if want := tokens([]byte(part)); want != "" && !strings.Contains(have, want) {
					missing = append(missing, strings.TrimSpace(part))
				}
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if best[0] == "no file" || len(missing) < len(best) {
			best = missing
		}
	}
	return fmt.Errorf("not in the source: %q", best)
}

// tokens returns the Go tokens of src, separated by spaces.
func tokens(src []byte) string {
	var s scanner.Scanner
	fset := token.NewFileSet()
	s.Init(fset.AddFile("", fset.Base(), len(src)), src, func(token.Position, string) {}, 0)
	var out bytes.Buffer
	for {
		_, tok, text := s.Scan()
		if tok == token.EOF {
			return strings.TrimSpace(out.String())
		}
		if tok == token.SEMICOLON && text == "\n" {
			continue
		}
		if text == "" {
			text = tok.String()
		}
		out.WriteString(text + " ")
	}
}

func isACL(b block) bool { return b.language == "text" && strings.HasPrefix(b.text, "user ") }

func isTokenFile(b block) bool {
	return b.language == "text" && strings.HasPrefix(b.text, "operator ") && b.page == "docs/kubernetes.md"
}

// namesTest returns a check that the test which uses the block exists.
func namesTest(file, test string) func(*testing.T, block) error {
	return func(*testing.T, block) error {
		text, err := os.ReadFile(filepath.Join(harness.Root(), file))
		if err == nil && !strings.Contains(string(text), "func "+test+"(") {
			err = fmt.Errorf("%s has no %s", file, test)
		}
		return err
	}
}
