package docs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/test/harness"
)

// topKeys returns the keys of a YAML mapping, in order; nil if it is none.
func topKeys(b block) []string {
	var m yaml.MapSlice
	if b.language != "yaml" || yaml.Unmarshal([]byte(b.text), &m) != nil {
		return nil
	}
	var keys []string
	for _, item := range m {
		keys = append(keys, fmt.Sprint(item.Key))
	}
	return keys
}

// allOf reports whether the block is a mapping with keys of which each passes.
func allOf(b block, pass func(string) bool) bool {
	keys := topKeys(b)
	for _, k := range keys {
		if !pass(k) {
			return false
		}
	}
	return len(keys) > 0
}

// isConfiguration: a mapping of which every key is one of the configuration's.
func isConfiguration(b block) bool {
	text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "config.schema.json"))
	var schema struct{ Properties map[string]any }
	if err != nil || json.Unmarshal(text, &schema) != nil {
		return false
	}
	return allOf(b, func(k string) bool { _, known := schema.Properties[k]; return known })
}

func isPolicyTests(b block) bool { return allOf(b, func(k string) bool { return k == "tests" }) }

// loadConfiguration loads the block as `config check` does. Where it needs them,
// it is completed by the other blocks of its page.
func loadConfiguration(t *testing.T, b block) error {
	alone := load(t, complete(b))
	if alone == nil {
		return nil
	}
	if load(t, complete(b, b.siblings...)) == nil {
		return nil
	}
	return alone
}

func load(t *testing.T, text string) error {
	t.Helper()
	s, err := sidecar.Load(harness.WriteFile(t, harness.Dir(t), "jwt-bouncer.yaml", text), nil)
	if err != nil {
		return err
	}
	_, err = s.OfflinePolicy()
	return err
}

// ownIssuers are the issuers that the pages' examples are about.
const ownIssuers = "issuers:\n" +
	"  - {issuer: https://issuer.example, audiences: [api]}\n" +
	"  - {issuer: https://partner.example, audiences: [partner-api]}\n" +
	"  - {issuer: https://sso.example/realms/shop, audiences: [api]}\n"

var stanza = regexp.MustCompile(`(?m)^[a-z_]+:.*\n(?:(?:[ #-].*)?\n)*`)

// complete returns b with every top-level key that it does not have and one of
// the others has, and with issuers.
func complete(b block, others ...block) string {
	text := b.text
	have := map[string]bool{}
	add := func(from string) {
		for _, s := range stanza.FindAllString(from, -1) {
			if key, _, _ := strings.Cut(s, ":"); !have[key] {
				have[key] = true
				text += s
			}
		}
	}
	for _, k := range topKeys(b) {
		have[k] = true
	}
	for _, o := range others {
		if isConfiguration(o) {
			add(o.text)
		}
	}
	add(ownIssuers)
	return text
}

func runPolicyTests(t *testing.T, b block) error {
	dir := harness.Dir(t)
	config := harness.WriteFile(t, dir, "jwt-bouncer.yaml", complete(block{}, b.siblings...))
	r := harness.Run(t, "", "--config", config, "config", "test", harness.WriteFile(t, dir, "tests.yaml", b.text))
	if r.Code != 0 {
		return fmt.Errorf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	return nil
}

const (
	sampleOptions = "                common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}\n"
	sampleRoute   = "                        - match: {prefix: /}\n                          route: {cluster: upstream}\n"
	sampleHosts   = "                  virtual_hosts:\n                    - name: all\n                      domains: [\"*\"]\n" + sampleRoutes
	sampleRoutes  = "                      routes:\n" + sampleRoute
	anyCluster    = "                  validate_clusters: false\n" // the page's clusters are not the sample's
)

// envoyParts are the parts of a bootstrap configuration that pages show, by their
// first key: what the part stands in for in the sample, what is kept of that, and
// how far the part is indented.
var envoyParts = map[string]struct {
	of, kept string
	columns  int
}{
	"common_http_protocol_options": {sampleOptions, "", 16},
	"virtual_hosts":                {sampleHosts, anyCluster, 18},
	"routes":                       {sampleHosts, anyCluster + strings.TrimSuffix(sampleHosts, sampleRoutes), 22},
	"typed_per_filter_config":      {sampleRoute, sampleRoute, 26},
}

var envoyRoute = regexp.MustCompile(`(?m)^    (route|direct_response|redirect):`)

// isEnvoy: a whole bootstrap configuration, or one of its parts. The product's
// configuration has routes, too.
func isEnvoy(b block) bool {
	keys := topKeys(b)
	if len(keys) == 0 {
		return false
	}
	_, part := envoyParts[keys[0]]
	return keys[0] == "static_resources" || keys[0] == "http_filters" || part && len(keys) == 1 && (keys[0] != "routes" || envoyRoute.MatchString(b.text))
}

func validateEnvoy(t *testing.T, b block) error {
	part, ok := envoyParts[topKeys(b)[0]]
	if topKeys(b)[0] == "http_filters" {
		return validateModule(t, b)
	}
	if !ok {
		return harness.ValidateEnvoy(t, b.text)
	}
	return inSample(t, part.of, part.kept+indented(b.text, part.columns))
}

// validateModule has Envoy validate a list of filters with the dynamic module, which
// reads the configuration file that the filter names.
func validateModule(t *testing.T, b block) error {
	t.Helper()
	o, dir := harness.ModuleEnvoy(t), harness.Dir(t)
	config := harness.WriteFile(t, dir, "config.yaml", ownIssuers+"store: sqlite://"+dir+"/revocations.db\n")
	filters := strings.Replace(b.text, "/etc/jwt-bouncer/config.yaml", config, 1)
	return harness.ValidateEnvoy(t, `static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
`+indented(filters, 10)+`          - {name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
`, o)
}

// inSample has Envoy validate the sample configuration with a part replaced.
func inSample(t *testing.T, part, with string) error {
	t.Helper()
	sample, err := os.ReadFile(filepath.Join(harness.Root(), "envoy", "envoy.yaml"))
	if err != nil {
		return err
	}
	if strings.Count(string(sample), part) != 1 {
		return fmt.Errorf("envoy/envoy.yaml does not contain %q once", part)
	}
	return harness.ValidateEnvoy(t, strings.Replace(string(sample), part, with, 1))
}

func indented(text string, columns int) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(strings.Repeat(" ", columns) + line)
	}
	return out.String()
}

var formatString = regexp.MustCompile(`^%[A-Z_]+\(?[^ ]*\n$`)

func isLogFormat(b block) bool { return b.language == "text" && formatString.MatchString(b.text) }

func validateLogFormat(t *testing.T, b block) error {
	const at = "                stat_prefix: ingress\n"
	return inSample(t, at, at+"                access_log:\n                  - name: envoy.access_loggers.stdout\n"+
		"                    typed_config:\n                      \"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog\n"+
		"                      log_format: {text_format_source: {inline_string: \""+strings.TrimSpace(b.text)+"\"}}\n")
}

var ownFile = regexp.MustCompile(`^# .*\b(kustomization|values)\.yaml\n`)

// isManifest: what TestManifestsInDocs in the module k8s has to decode. It
// decodes every block of YAML that is neither configuration, policy tests nor
// Envoy's, and knows no other kinds than these.
func isManifest(b block) bool {
	return b.language == "yaml" && (ownFile.MatchString(b.text) || strings.Contains("\n"+b.text, "\napiVersion: ") ||
		allOf(b, func(k string) bool { return k == "metadata" || k == "spec" }))
}

func parseYAML(_ *testing.T, b block) error {
	for _, doc := range strings.Split(b.text, "\n---\n") {
		var m yaml.MapSlice
		if err := yaml.UnmarshalWithOptions([]byte(doc), &m, yaml.Strict()); err != nil {
			return err
		}
		if len(m) == 0 {
			return errors.New("no mapping")
		}
	}
	return nil
}
