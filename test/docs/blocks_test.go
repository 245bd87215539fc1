package docs

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/docs/fence"
)

// block is a fenced code block of a page.
type block struct {
	page     string // path from the root
	line     int    // of the fence
	language string
	text     string  // without the indentation of the fence
	siblings []block // all blocks of the page
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// fate says how far a validator goes.
type fate string

const (
	run       fate = "run"       // the product, or the server that the block is for, executed it
	validated fate = "validated" // read by the code that reads it in production
	exception fate = "exception" // the block says why it cannot be run; its syntax is checked
	drawing   fate = "drawing"   // no code
)

// validator checks the blocks that it takes. The first that takes a block checks
// it.
type validator struct {
	name  string
	fate  fate
	takes func(block) bool
	check func(*testing.T, block) error
}

// validators are the register of everything that checks a code block.
var validators = []validator{
	{"drawing", drawing, isDrawing, func(*testing.T, block) error { return nil }},
	{"syntax of a command that cannot be run here", exception, isException, checkShellSyntax},
	{"quick start, run by TestQuickStart (test/e2e)", run, isQuickStart, namesTest("test/e2e/quickstart_test.go", "TestQuickStart")},
	{"commands for a cluster, run by TestGuide (test/live/kubernetes)", run, isCluster, namesTest("test/live/kubernetes/guide_test.go", "TestGuide")},
	{"commands, run against real servers", run, isShell, runShell},
	{"policy tests, run by config test", run, isPolicyTests, runPolicyTests},
	{"part of Envoy's configuration, validated by Envoy", run, isEnvoy, validateEnvoy},
	{"configuration, loaded", validated, isConfiguration, loadConfiguration},
	{"manifest, decoded and built by k8s (TestManifestsInDocs)", validated, isManifest, parseYAML},
	{"JSON of the API, held to the OpenAPI document", validated, isAPIJSON, checkAPIJSON},
	{"SQL, run on PostgreSQL", run, isSQL, runSQL},
	{"excerpt, compared with the source", validated, isExcerpt, compareExcerpt},
	{"Envoy's format of an access log, validated by Envoy", run, isLogFormat, validateLogFormat},
	{"rule of Redis, used by TestACL (cache/rediscache)", run, isACL, namesTest("cache/rediscache/acl_test.go", "TestACL")},
	{"file of tokens, used by TestRotatedTokens (k8s)", validated, isTokenFile, namesTest("k8s/docs_test.go", "TestRotatedTokens")},
}

// TestBlocks: a validator takes every code block of every page, and accepts it.
func TestBlocks(t *testing.T) {
	t.Parallel()
	byPage := map[string][]block{}
	for path, text := range pages(t) {
		if name := filepath.ToSlash(rel(path)); strings.HasSuffix(name, ".md") {
			byPage[name] = blocks(name, text)
		}
	}
	counts := map[fate]*atomic.Int64{run: {}, validated: {}, exception: {}, drawing: {}}
	t.Cleanup(func() {
		t.Logf("blocks: %d run, %d validated, %d exceptions, %d drawings",
			counts[run].Load(), counts[validated].Load(), counts[exception].Load(), counts[drawing].Load())
	})
	total := 0
	for _, page := range slices.Sorted(maps.Keys(byPage)) {
		total += len(byPage[page])
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			// In the order of the page, because its commands follow one another.
			for _, b := range byPage[page] {
				i := slices.IndexFunc(validators, func(v validator) bool { return v.takes(b) })
				if !assert.GreaterOrEqual(t, i, 0, "%s: no validator takes this block of %q; see validators in blocks_test.go", b, b.language) {
					continue
				}
				v := validators[i]
				counts[v.fate].Add(1)
				t.Run(fmt.Sprintf("line %d", b.line), func(t *testing.T) { assert.NoError(t, v.check(t, b), "%s: %s", b, v.name) })
			}
		})
	}
	require.Greater(t, total, 40)
}

// A validator refuses what is wrong: otherwise TestBlocks would prove nothing.
func TestValidatorsRefuse(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]block{
		"key of the configuration":    {language: "yaml", text: "headers: {claim: {x-jwt-sub: sub}}\n"},
		"value of the configuration":  {language: "yaml", text: "revocation: {max_staleness: soon}\n"},
		"rule of a route":             {language: "yaml", text: "routes:\n  - name: a\n    allow: [token.sub ==]\n"},
		"expectation":                 {language: "yaml", text: "tests:\n  - name: a\n    request: {url: /}\n    expect: {decision: allow}\n"},
		"field of Envoy":              {language: "yaml", text: "typed_per_filter_config:\n  envoy.filters.http.ext_authz:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n    check_setting: {}\n"},
		"route of Envoy":              {language: "yaml", text: "routes:\n  - match: {prefx: /}\n    direct_response: {status: 404}\n"},
		"virtual host of Envoy":       {language: "yaml", text: "virtual_hosts:\n  - name: all\n    routes: []\n"},
		"option of Envoy":             {language: "yaml", text: "common_http_protocol_options:\n  max_stream_duration: soon\n"},
		"YAML of a manifest":          {language: "yaml", text: "apiVersion: v1\nkind: Service\nkind: Service\n"},
		"member of the API":           {language: "json", text: `{"ids": ["1"], "committed": "yesterday", "enforced_within": 1, "published": true, "enforced": false, "revocations": []}`},
		"JSON":                        {language: "json", text: `{"ids": [}`},
		"SQL":                         {language: "sql", text: "insert into authz.revocations (kind, iss, value, why) values (1, 'https://issuer.example', 'a', 'b');\n"},
		"excerpt":                     {language: "go", page: "docs/revocation.md", text: "asof := t.f.asof.Store()\n"},
		"format of an access log":     {language: "text", text: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:sub\n"},
		"syntax of an exception":      {language: "sh", text: "# The tests do not run this: it needs a cluster.\nkubectl apply -k 'my\n"},
		"exception that could be run": {language: "sh", text: "# The tests do not run this: it needs time.\njwt-bouncer version\n"},
		"option of a command":         {language: "sh", text: "jwt-bouncer revoke --subject alice\n"},
		"command that does not exist": {language: "sh", text: "jwt-bouncer frobnicate\n"},
		"command that fails":          {language: "sh", text: "jwt-bouncer --config missing.yaml config check\n"},
		"status of an HTTP request":   {language: "sh", text: "curl -sS http://127.0.0.1:9192/livez # 404\n"},
		"target of make":              {language: "sh", text: "make coffee\n"},
		"last command of several":     {language: "sh", text: "false\njwt-bouncer version\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.page = "docs/wrong.md"
			if b.language == "go" {
				b.page = "docs/revocation.md"
			}
			i := slices.IndexFunc(validators, func(v validator) bool { return v.takes(b) })
			require.GreaterOrEqual(t, i, 0, "no validator takes it, so that it is not this test's")
			assert.Error(t, validators[i].check(t, b), "accepted as %s", validators[i].name)
		})
	}
	for name, b := range map[string]block{
		"language":          {language: "toml", text: "a = 1\n"},
		"no language":       {text: "jwt-bouncer version\n"},
		"key of no product": {language: "yaml", text: "rotues: []\n"},
	} {
		assert.False(t, slices.ContainsFunc(validators, func(v validator) bool { return v.takes(b) }), "%s", name)
	}
}

// blocks returns the code blocks of a page.
func blocks(page, text string) []block {
	var all []block
	for _, b := range fence.Blocks(text) {
		all = append(all, block{page: page, line: b.Line, language: b.Language, text: b.Text})
	}
	for i := range all {
		all[i].siblings = all
	}
	return all
}

// isDrawing: Mermaid's diagrams, and those of characters that no language has.
func isDrawing(b block) bool {
	return b.language == "mermaid" || b.language == "text" && strings.ContainsAny(b.text, "╰╭│┌└→")
}
