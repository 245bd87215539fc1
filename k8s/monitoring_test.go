package k8s

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

var promParser = parser.NewParser(parser.Options{})

// foreign are metrics of libraries, which every Go process exposes.
var foreign = []string{"process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"}

// alerts returns the expressions of the alert rules by name.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("components/monitoring/alerts.yaml")
	require.NoError(t, err)
	var doc struct {
		Spec map[string]any `json:"spec"`
	}
	err = yaml.UnmarshalStrict(text, &struct {
		APIVersion string          `json:"apiVersion"`
		Kind       string          `json:"kind"`
		Metadata   map[string]any  `json:"metadata"`
		Spec       *map[string]any `json:"spec"`
	}{Spec: &doc.Spec})
	require.NoError(t, err)
	groups, err := yaml.Marshal(doc.Spec)
	require.NoError(t, err)
	rules, errs := rulefmt.Parse(groups, false, model.UTF8Validation, promParser, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	out := map[string]string{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			out[r.Alert] = r.Expr
			assert.NotEmptyf(t, r.Annotations["summary"], "%s lacks summary, description or a valid severity", r.Alert)
			assert.NotEmptyf(t, r.Annotations["description"], "%s lacks summary, description or a valid severity", r.Alert)
			assert.Containsf(t, []string{"info", "warning", "critical"}, r.Labels["severity"], "%s lacks summary, description or a valid severity", r.Alert)
		}
	}
	require.GreaterOrEqual(t, len(out), 10, "alerts, want at least 10")
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
	require.NoError(t, err)
	var d struct {
		UID, Title string
		Panels     []panel
	}
	require.NoError(t, json.Unmarshal(text, &d))
	require.NotEmptyf(t, d.UID, "dashboard %q has %d panels", d.Title, len(d.Panels))
	require.NotEmptyf(t, d.Title, "dashboard %q has %d panels", d.Title, len(d.Panels))
	require.GreaterOrEqualf(t, len(d.Panels), 10, "dashboard %q panels", d.Title)
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
		if !assert.NoErrorf(t, err, "%s", where) {
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
			if !assert.Truef(t, ok, "%s: the product has no metric %s", where, name) {
				continue
			}
			used[m.Name] = true
			for _, matcher := range selector {
				assert.Containsf(t, append([]string{"__name__", "namespace", "pod", "le"}, m.Labels...), matcher.Name, "%s: %s has no label %s (it has %v)", where, name, matcher.Name, m.Labels)
			}
		}
	}
	for name, expr := range alerts(t) {
		try("alert "+name, expr)
	}
	ids := map[int]string{}
	for _, p := range dashboard(t) {
		other, twice := ids[p.ID]
		assert.Falsef(t, twice, "panels %s and %s have the same id", p.Title, other)
		ids[p.ID] = p.Title
		assert.Falsef(t, p.Type != "row" && (len(p.Targets) == 0 || p.Description == ""), "panel %s lacks a query or a description", p.Title)
		for _, target := range p.Targets {
			try("panel "+p.Title, target.Expr)
		}
	}
	assert.GreaterOrEqualf(t, len(used), 15, "alerts and dashboard use %d of the product's metrics, want at least 15", len(used))
}

// fleet returns the lines of n pods, whose number replaces %d, and other lines as
// they are.
func fleet(n int, lines ...string) (out recorded) {
	for _, line := range lines {
		if !strings.Contains(line, "%d") {
			out = append(out, line)
			continue
		}
		for i := range n {
			out = append(out, fmt.Sprintf(line, i))
		}
	}
	return out
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
		{"JWTBouncerEventStreamNotPolled", recorded{`jwt_bouncer_event_polls_total{pod="a",transmitter="t",result="failed"} 0+1x10`, `jwt_bouncer_event_polls_total{pod="a",transmitter="t",result="answered"} 7x10`}, 10, `{pod="a", transmitter="t"}`},
		{"JWTBouncerEventStreamNotPolled", recorded{`jwt_bouncer_event_polls_total{pod="a",transmitter="t",result="failed"} 0+1x10`, `jwt_bouncer_event_polls_total{pod="a",transmitter="t",result="answered"} 0+1x10`}, 10, ""},
		{"JWTBouncerEventStreamStopped", recorded{`jwt_bouncer_event_stream_enabled{pod="a",transmitter="t"} 1 1 0`}, 2, `{__name__="jwt_bouncer_event_stream_enabled", pod="a", transmitter="t"}`},
		{"JWTBouncerEventStreamStopped", recorded{`jwt_bouncer_event_stream_enabled{pod="a",transmitter="t"} 1 1 1`}, 2, ""},
		{"JWTBouncerRevocationsNotProven", recorded{`jwt_bouncer_replica_staleness_seconds{pod="a"} 2`, `jwt_bouncer_replica_max_staleness_seconds{pod="a"} 30`}, 0, ""},
		{"JWTBouncerRevocationsNotProven", recorded{`jwt_bouncer_replica_staleness_seconds{pod="a"} Inf`, `jwt_bouncer_replica_max_staleness_seconds{pod="a"} 30`}, 0, `{__name__="jwt_bouncer_replica_staleness_seconds", pod="a"}`},
		{"JWTBouncerRevocationRefused", recorded{`jwt_bouncer_revocations_ordered_total{source="api",outcome="stored"} 0 1 1`, `jwt_bouncer_revocations_ordered_total{source="api",outcome="unavailable"} 0 0 0`}, 2, ""},
		{"JWTBouncerRevocationRefused", recorded{`jwt_bouncer_revocations_ordered_total{source="api",outcome="unavailable"} 0 0 1`}, 2, `{source="api"}`}, // the first one ever
		// Half of the fleet has to lag: one of three pods does not count.
		{"JWTBouncerFleetLags", fleet(3, `jwt_bouncer_replica_max_staleness_seconds{namespace="n",pod="p%d"} 30`, `jwt_bouncer_replica_staleness_seconds{namespace="n",pod="p%d"} 2`, `jwt_bouncer_replica_staleness_seconds{namespace="n",pod="late"} 25`), 0, ""},
		{"JWTBouncerFleetLags", fleet(3, `jwt_bouncer_replica_max_staleness_seconds{namespace="n",pod="p%d"} 30`, `jwt_bouncer_replica_staleness_seconds{namespace="n",pod="p%d"} 12`), 0, `{namespace="n"}`},
		// A load storm is many starts or many reloads of many revocations.
		{"JWTBouncerLoadStorm", fleet(60, `jwt_bouncer_replica_entries{namespace="n",pod="p%d"} 100000x30`, `process_start_time_seconds{namespace="n",pod="p%d"} 0x30`, `jwt_bouncer_replica_reloads_total{namespace="n",pod="p%d",cause="epoch"} 0x30`), 20, ""},
		{"JWTBouncerLoadStorm", fleet(60, `jwt_bouncer_replica_entries{namespace="n",pod="p%d"} 100000x30`, `process_start_time_seconds{namespace="n",pod="p%d"} 900x30`, `jwt_bouncer_replica_reloads_total{namespace="n",pod="p%d",cause="epoch"} 0x30`), 20, `{namespace="n"}`},
		{"JWTBouncerLoadStorm", fleet(60, `jwt_bouncer_replica_entries{namespace="n",pod="p%d"} 100000x30`, `process_start_time_seconds{namespace="n",pod="p%d"} 0x30`, `jwt_bouncer_replica_reloads_total{namespace="n",pod="p%d",cause="epoch"} 0x14 1x15`), 20, `{namespace="n"}`},
		{"JWTBouncerLoadStorm", fleet(60, `jwt_bouncer_replica_entries{namespace="n",pod="p%d"} 100x30`, `process_start_time_seconds{namespace="n",pod="p%d"} 900x30`, `jwt_bouncer_replica_reloads_total{namespace="n",pod="p%d",cause="epoch"} 0x30`), 20, ""},
		{"JWTBouncerStoreRefusesConnections", recorded{`jwt_bouncer_store_connects_total{namespace="n",pod="a",outcome="tried"} 0+60x10`, `jwt_bouncer_store_connects_total{namespace="n",pod="a",outcome="ok"} 0+60x10`}, 10, ""},
		{"JWTBouncerStoreRefusesConnections", recorded{`jwt_bouncer_store_connects_total{namespace="n",pod="a",outcome="tried"} 0+60x10`, `jwt_bouncer_store_connects_total{namespace="n",pod="a",outcome="ok"} 0+20x10`}, 10, `{namespace="n"}`},
		// A replica that is not fresh answers with an error, not with a miss.
		{"JWTBouncerReplicaPassedBy", recorded{`jwt_bouncer_tier_lookups_total{namespace="n",pod="a",tier="replica",result="error"} 0+60x10`}, 10, `{namespace="n"}`},
		{"JWTBouncerReplicaPassedBy", recorded{`jwt_bouncer_tier_lookups_total{namespace="n",pod="a",tier="replica",result="error"} 0x10`, `jwt_bouncer_tier_lookups_total{namespace="n",pod="a",tier="redis",result="error"} 0+60x10`}, 10, ""},
		{"JWTBouncerRevocationQuota", recorded{`jwt_bouncer_unverified_revocations_total{outcome="over_quota"} 0 0 1`}, 2, "{}"},
		{"JWTBouncerRevocationQuota", recorded{`jwt_bouncer_unverified_revocations_total{outcome="over_quota"} 0 0 0`, `jwt_bouncer_unverified_revocations_total{outcome="admitted"} 0 9 60`}, 2, ""},
	} {
		fires := c.shown.query(t, rules[c.alert], c.at)
		want := 0
		if c.labels != "" {
			want = 1
		}
		_, ok := fires[c.labels]
		if assert.Lenf(t, fires, want, "%s on %v, want %q", c.alert, c.shown, c.labels) {
			assert.Equalf(t, want == 1, ok, "%s on %v: %v, want %q", c.alert, c.shown, fires, c.labels)
		}
	}
}
