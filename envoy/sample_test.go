package envoy

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestSampleFileIsCurrent(t *testing.T) {
	t.Parallel()
	got, err := SampleConfig(Sample{Listen: "0.0.0.0:8080", Service: "127.0.0.1:9191", Upstream: "127.0.0.1:8000", AdminPort: 9901})
	require.NoError(t, err)
	golden(t, "envoy.yaml", got)
}

func TestSampleRefusesBadAddresses(t *testing.T) {
	t.Parallel()
	for _, s := range []Sample{
		{Listen: "nowhere", Service: "127.0.0.1:1", Upstream: "127.0.0.1:2"},
		{Listen: "127.0.0.1:0", Service: "unix://relative", Upstream: "127.0.0.1:2"},
		{Listen: "127.0.0.1:0", Service: "127.0.0.1:1", Upstream: "127.0.0.1"},
	} {
		_, err := SampleConfig(s)
		assert.Error(t, err, "%+v", s)
	}
}

// golden compares got with the content of file. With -update it writes the file first.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err, "run the test with -update to create it")
	assert.Emptyf(t, cmp.Diff(string(want), got), "%s differs; run the test with -update and review the difference", file)
}

// docker-compose.yml uses the same template with its own service names.
func TestComposeFileIsCurrent(t *testing.T) {
	t.Parallel()
	got, err := SampleConfig(Sample{Listen: "0.0.0.0:8080", Service: "jwt-bouncer:9191", Upstream: "upstream:9001"})
	require.NoError(t, err)
	golden(t, "compose.yaml", got)
}

// The Kubernetes overlays use the same template.
func TestOverlayFilesAreCurrent(t *testing.T) {
	t.Parallel()
	for file, s := range map[string]Sample{
		"../k8s/overlays/envoy/bootstrap.yaml":   {Listen: "0.0.0.0:8080", Service: "jwt-bouncer:9191", Upstream: "app.default.svc.cluster.local:80"},
		"../k8s/overlays/sidecar/bootstrap.yaml": {Listen: "0.0.0.0:8080", Service: "unix:///run/jwt-bouncer/authz.sock", Upstream: "127.0.0.1:8000"},
	} {
		got, err := SampleConfig(s)
		require.NoError(t, err)
		golden(t, file, got)
	}
}
