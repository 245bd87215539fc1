package k8s

import (
	"bufio"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite generated files")

// metric is one metric of the product.
type metric struct {
	Name, Type, Help string
	Labels           []string
}

var measured = sync.OnceValues(func() (map[string]metric, error) {
	known, err := declaredMetrics()
	if err != nil {
		return nil, err
	}
	exposed, err := exposedMetrics()
	if err != nil {
		return nil, err
	}
	for name, m := range exposed {
		if d, ok := known[name]; ok {
			m.Labels = append(m.Labels, d.Labels...)
		}
		slices.Sort(m.Labels)
		m.Labels = slices.Compact(m.Labels)
		known[name] = m
	}
	return known, nil
})

// metrics returns the product's metrics: those that a running sidecar exposes,
// and those that its source declares, because a vector without a value is not
// exposed.
func metrics(t testing.TB) map[string]metric {
	t.Helper()
	m, err := measured()
	require.NoError(t, err)
	require.GreaterOrEqualf(t, len(m), 30, "%d metrics found, want at least 30", len(m))
	return m
}

// declaredMetrics finds the calls of the product's source that declare a metric.
func declaredMetrics() (map[string]metric, error) {
	found := map[string]metric{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if path != ".." && (strings.HasPrefix(name, ".") || name == "testdata" || path == filepath.Join("..", "test") || path == filepath.Join("..", "k8s")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if m, ok := declaredMetric(call); ok {
					found[m.Name] = m
				}
			}
			return true
		})
		return nil
	})
	return found, err
}

// declaredMetric reads a call of the form
// prometheus.NewX(prometheus.XOpts{Name: …, Help: …}, labels).
func declaredMetric(call *ast.CallExpr) (m metric, ok bool) {
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 || fmt.Sprint(fun.X) != "prometheus" || !strings.HasPrefix(fun.Sel.Name, "New") {
		return metric{}, false
	}
	opts, ok := call.Args[0].(*ast.CompositeLit)
	if !ok {
		return metric{}, false
	}
	m.Type = strings.ToLower(strings.TrimPrefix(strings.TrimSuffix(strings.TrimSuffix(fun.Sel.Name, "Vec"), "Func"), "New"))
	for _, e := range opts.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		switch fmt.Sprint(kv.Key) {
		case "Name":
			m.Name = text(kv.Value)
		case "Help":
			m.Help = text(kv.Value)
		}
	}
	if strings.HasSuffix(fun.Sel.Name, "Vec") && len(call.Args) > 1 {
		if labels, ok := call.Args[1].(*ast.CompositeLit); ok {
			for _, l := range labels.Elts {
				m.Labels = append(m.Labels, text(l))
			}
		}
	}
	return m, m.Name != ""
}

func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, _ := strconv.Unquote(e.Value)
		return s
	case *ast.BinaryExpr:
		return text(e.X) + text(e.Y)
	}
	return ""
}

// exposedMetrics runs the product with every feature enabled and reads /metrics.
func exposedMetrics() (map[string]metric, error) {
	bin, err := product()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "jwt-bouncer-metrics-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	jwks := fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"k","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.yaml")
	for file, text := range map[string]string{
		filepath.Join(dir, "jwks.json"): jwks,
		config: fmt.Sprintf("listen: {grpc: 'unix://%[1]s/s', http: %[2]q}\nissuers: [{issuer: 'https://i', audiences: [a], jwks: %[1]s/jwks.json}]\nstore: sqlite://%[1]s/db\nredis: {addrs: ['127.0.0.1:1']}\n",
			dir, addr),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(bin, "--config", config)
	cmd.Env = []string{}
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		found, err := scrape(ctx, "http://"+addr)
		if err == nil {
			return found, nil
		}
		select {
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return nil, fmt.Errorf("%w\n%s", err, log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

var (
	sample = regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})? `)
	label  = regexp.MustCompile(`([a-z_]+)="`)
)

func scrape(ctx context.Context, url string) (map[string]metric, error) {
	get := func(path string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
		if err != nil {
			return nil, err
		}
		return http.DefaultClient.Do(req)
	}
	ready, err := get("/readyz")
	if err != nil {
		return nil, err
	}
	ready.Body.Close()
	if ready.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("not ready: %s", ready.Status)
	}
	res, err := get("/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	found := map[string]metric{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		line := lines.Text()
		words := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			found[words[2]] = metric{Name: words[2], Help: words[3]}
		case strings.HasPrefix(line, "# TYPE "):
			m := found[words[2]]
			m.Type = words[3]
			found[words[2]] = m
		default:
			if s := sample.FindStringSubmatch(line); s != nil {
				name := s[1]
				if _, ok := found[name]; !ok {
					name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
				}
				m := found[name]
				for _, l := range label.FindAllStringSubmatch(s[2], -1) {
					if l[1] != "le" && !slices.Contains(m.Labels, l[1]) {
						m.Labels = append(m.Labels, l[1])
					}
				}
				found[name] = m
			}
		}
	}
	// A vector is exposed from its first use on, and the answer may be a second old.
	for _, name := range []string{"jwt_bouncer_store_operations_total", "jwt_bouncer_store_operation_duration_seconds", "jwt_bouncer_http_requests_total"} {
		if found[name].Type == "" {
			return nil, fmt.Errorf("%s is not exposed yet", name)
		}
	}
	for name := range found {
		if !strings.HasPrefix(name, "jwt_bouncer_") && !strings.HasPrefix(name, "auth_") {
			delete(found, name) // metrics of Go and of the process, documented by their library
		}
	}
	return found, nil
}

// docs/metrics.md lists all metrics.
func TestMetricReference(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# Metrics\n\nGenerated from the product; do not edit. `cd k8s && go test -run TestMetricReference -update .`\nrewrites it.\n\n" +
		"Served at `/metrics` of `listen.http`, together with the metrics of the Go runtime and the process.\nNo label value comes from a token. Alert rules and a Grafana dashboard are in\n" +
		"[k8s/components/monitoring](../k8s/components/monitoring); [operations.md](operations.md) says what\nto do about an alert.\n\n" +
		"| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	all := metrics(t)
	names := make([]metric, 0, len(all))
	for _, m := range all {
		names = append(names, m)
	}
	slices.SortFunc(names, func(a, b metric) int { return cmp.Compare(a.Name, b.Name) })
	for _, m := range names {
		assert.NotEmptyf(t, m.Help, "%s lacks help or type", m.Name)
		assert.NotEmptyf(t, m.Type, "%s lacks help or type", m.Name)
		labels := ""
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, labels, m.Help)
	}
	generated(t, "../docs/metrics.md", b.String())
}

// generated checks that the file's text is want; -update writes it.
func generated(t *testing.T, file, want string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(want), 0o644))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equalf(t, want, string(got), "%s is out of date: run this test with -update and review the difference", file)
}
