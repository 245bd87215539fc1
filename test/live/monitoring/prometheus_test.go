package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// prometheus is a running Prometheus.
type prometheus struct {
	t   *testing.T
	url string
	dir string
}

// startPrometheus starts a Prometheus that evaluates the rules. It scrapes the
// targets that watch adds.
func startPrometheus(t *testing.T, rules string) *prometheus {
	t.Helper()
	dir := harness.Dir(t)
	port := harness.Port(t)
	p := &prometheus{t, fmt.Sprint("http://127.0.0.1:", port), dir}
	harness.WriteFile(t, dir, "rules.yaml", rules)
	config := harness.WriteFile(t, dir, "prometheus.yaml", `global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: jwt-bouncer
    file_sd_configs: [{files: [targets-*.json], refresh_interval: 1s}]
`)
	out, err := exec.CommandContext(t.Context(), live(t, "prometheus/usr/bin/promtool"), "check", "config", config).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	harness.Server(t, harness.ServerOptions{
		Name: "prometheus", Path: live(t, "prometheus/usr/bin/prometheus"), Dir: dir, Self: true, Within: time.Minute,
		Args: []string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"), fmt.Sprint("--web.listen-address=127.0.0.1:", port)},
		Ready: func(ctx context.Context) error {
			_, err := harness.Get(ctx, p.url+"/-/ready")
			return err
		},
	})
	return p
}

// watch has Prometheus scrape a sidecar, under the names of a namespace and a pod.
func (p *prometheus) watch(namespace, pod string, sidecar *harness.BouncerServer) {
	p.t.Helper()
	text, err := json.Marshal([]map[string]any{{"targets": []string{strings.TrimPrefix(sidecar.HTTP, "http://")}, "labels": map[string]string{"namespace": namespace, "pod": pod}}})
	require.NoError(p.t, err)
	harness.WriteFile(p.t, p.dir, "targets-"+pod+".json", string(text))
}

// firing returns the names of the alerts that fire now, and of those that are active,
// firing or pending.
func (p *prometheus) firing(ctx context.Context) (firing, active map[string]bool, err error) {
	var answer struct {
		Data struct {
			Alerts []struct {
				State  string
				Labels map[string]string
			}
		}
	}
	if err := p.get(ctx, "/api/v1/alerts", nil, &answer); err != nil {
		return nil, nil, err
	}
	firing, active = map[string]bool{}, map[string]bool{}
	for _, a := range answer.Data.Alerts {
		active[a.Labels["alertname"]] = true
		if a.State == "firing" {
			firing[a.Labels["alertname"]] = true
		}
	}
	return firing, active, nil
}

// series is one line of a panel: values at times in seconds since 1970.
type series struct {
	labels map[string]string
	points [][2]float64
}

// queryRange returns the series of an expression, without values that are no
// finite numbers.
func (p *prometheus) queryRange(expr string, from, to time.Time, step time.Duration) []series {
	p.t.Helper()
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	form := url.Values{"query": {expr}, "start": {stamp(from)}, "end": {stamp(to)}, "step": {fmt.Sprint(step.Seconds())}}
	require.NoError(p.t, p.get(p.t.Context(), "/api/v1/query_range", form, &answer), expr)
	var all []series
	for _, r := range answer.Data.Result {
		s := series{labels: r.Metric}
		for _, v := range r.Values {
			at, _ := v[0].(float64)
			text, _ := v[1].(string)
			if value, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(value) && !math.IsInf(value, 0) {
				s.points = append(s.points, [2]float64{at, value})
			}
		}
		if len(s.points) > 0 {
			all = append(all, s)
		}
	}
	return all
}

func stamp(at time.Time) string { return strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64) }

func (p *prometheus) get(ctx context.Context, path string, form url.Values, into any) error {
	text, err := harness.Get(ctx, p.url+path+"?"+form.Encode())
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), into)
}

// promtool runs promtool, which must succeed.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), live(t, "prometheus/usr/bin/promtool"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "promtool %s\n%s", strings.Join(args, " "), out)
}

// TestPromtool: promtool accepts the rules and the names and help texts of the
// metrics.
func TestPromtool(t *testing.T) {
	promtool(t, "", "check", "rules", "--lint-fatal", filepath.Join(harness.Root(), rulesFile))
	r := harness.NewRig(t, harness.RigOptions{})
	require.Equal(t, http.StatusOK, r.Front.Bearer(t, r.Token(nil)).Status)
	promtool(t, r.Bouncer.Metrics(t), "check", "metrics")
}
