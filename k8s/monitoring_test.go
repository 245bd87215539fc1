package k8s

import (
	"encoding/json"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

var promParser = parser.NewParser(parser.Options{})

// foreign are metrics of libraries, which every Go process exposes.
var foreign = []string{"process_cpu_seconds_total", "process_resident_memory_bytes"}

// alerts returns the expressions of the alert rules by name.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("components/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Spec map[string]any `json:"spec"`
	}
	if err := yaml.UnmarshalStrict(text, &struct {
		APIVersion string          `json:"apiVersion"`
		Kind       string          `json:"kind"`
		Metadata   map[string]any  `json:"metadata"`
		Spec       *map[string]any `json:"spec"`
	}{Spec: &doc.Spec}); err != nil {
		t.Fatal(err)
	}
	groups, err := yaml.Marshal(doc.Spec)
	if err != nil {
		t.Fatal(err)
	}
	rules, errs := rulefmt.Parse(groups, false, model.UTF8Validation, promParser, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	out := map[string]string{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			out[r.Alert] = r.Expr
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("%s lacks summary, description or a valid severity", r.Alert)
			}
		}
	}
	if len(out) < 10 {
		t.Fatalf("%d alerts, want at least 10", len(out))
	}
	return out
}

type panel struct {
	Title       string `json:"title"`
	Type        string `json:"type"`
	Description string `json:"description"`
	GridPos     struct{ H, W, X, Y int }
	ID          int `json:"id"`
	Targets     []struct{ Expr string }
}

func dashboard(t *testing.T) []panel {
	t.Helper()
	text, err := os.ReadFile("components/monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID, Title string
		Panels     []panel
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || len(d.Panels) < 10 {
		t.Fatalf("dashboard %q has %d panels", d.Title, len(d.Panels))
	}
	return d.Panels
}

// Every metric and label that the alerts and the dashboard use exists.
func TestMonitoringUsesWhatExists(t *testing.T) {
	t.Parallel()
	known := metrics(t)
	used := map[string]bool{}
	try := func(where, expr string) {
		// Replace Grafana's variables.
		expr = strings.NewReplacer("$__rate_interval", "5m", "$namespace", ".*", "$pod", ".*").Replace(expr)
		tree, err := promParser.ParseExpr(expr)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			return
		}
		for _, selector := range parser.ExtractSelectors(tree) {
			name := ""
			for _, m := range selector {
				if m.Name == "__name__" {
					name = m.Value
				}
			}
			if slices.Contains(foreign, name) {
				continue
			}
			base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			m, ok := known[name]
			if !ok {
				m, ok = known[base]
				ok = ok && m.Type == "histogram"
			}
			if !ok {
				t.Errorf("%s: the product has no metric %s", where, name)
				continue
			}
			used[m.Name] = true
			for _, matcher := range selector {
				if !slices.Contains(append([]string{"__name__", "namespace", "pod", "le"}, m.Labels...), matcher.Name) {
					t.Errorf("%s: %s has no label %s (it has %v)", where, name, matcher.Name, m.Labels)
				}
			}
		}
	}
	for name, expr := range alerts(t) {
		try("alert "+name, expr)
	}
	ids := map[int]string{}
	for _, p := range dashboard(t) {
		if other, twice := ids[p.ID]; twice {
			t.Errorf("panels %s and %s have the same id", p.Title, other)
		}
		ids[p.ID] = p.Title
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("panel %s lacks a query or a description", p.Title)
		}
		for _, target := range p.Targets {
			try("panel "+p.Title, target.Expr)
		}
	}
	if len(used) < 15 {
		t.Errorf("alerts and dashboard use %d of the product's metrics, want at least 15", len(used))
	}
}

// The alerts fire on the metrics of the fault that they are for, and only then.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	rules := alerts(t)
	for _, c := range []struct {
		alert  string
		shown  recorded
		at     int    // minute of the evaluation
		labels string // labels of the alert; empty means that it does not fire
	}{
		{"JWTBouncerConfigNotReloaded", recorded{`jwt_bouncer_config_last_reload_successful{pod="a"} 1 1 1`}, 2, ""},
		{"JWTBouncerConfigNotReloaded", recorded{`jwt_bouncer_config_last_reload_successful{pod="a"} 1 1 0`}, 2, `{__name__="jwt_bouncer_config_last_reload_successful", pod="a"}`},
		{"JWTBouncerRevocationsNotProven", recorded{`jwt_bouncer_replica_staleness_seconds{pod="a"} 2`, `jwt_bouncer_replica_max_staleness_seconds{pod="a"} 30`}, 0, ""},
		{"JWTBouncerRevocationsNotProven", recorded{`jwt_bouncer_replica_staleness_seconds{pod="a"} Inf`, `jwt_bouncer_replica_max_staleness_seconds{pod="a"} 30`}, 0, `{__name__="jwt_bouncer_replica_staleness_seconds", pod="a"}`},
		{"JWTBouncerRevocationRefused", recorded{`jwt_bouncer_revocations_ordered_total{source="api",outcome="stored"} 0 1 1`, `jwt_bouncer_revocations_ordered_total{source="api",outcome="unavailable"} 0 0 0`}, 2, ""},
		{"JWTBouncerRevocationRefused", recorded{`jwt_bouncer_revocations_ordered_total{source="api",outcome="unavailable"} 0 0 1`}, 2, `{source="api"}`}, // the first one ever
	} {
		fires := c.shown.query(t, rules[c.alert], c.at)
		want := 0
		if c.labels != "" {
			want = 1
		}
		if _, ok := fires[c.labels]; len(fires) != want || ok != (want == 1) {
			t.Errorf("%s on %v: %v, want %q", c.alert, c.shown, fires, c.labels)
		}
	}
}
