package live

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// InProcess is what an Envoy needs to run jwt-bouncer in its own process.
type InProcess struct {
	Library string // path of libjwt_bouncer.so
	Config  string // path of the configuration file
}

// The paths in docs/in-process.md.
const (
	guideLibrary = "/opt/jwt-bouncer/libjwt_bouncer.so"
	guideConfig  = "/etc/jwt-bouncer/config.yaml"
)

// NewInProcess ends the first sidecar of the rig, and returns the library and a
// configuration with the sidecar's store and a port of its own. The rig revokes at that
// port.
func NewInProcess(t testing.TB, rig *harness.Rig) InProcess {
	t.Helper()
	harness.NeedsCompiler(t)
	rig.Bouncer.Stop(syscall.SIGTERM, 12*time.Second)
	dir := harness.Dir(t)
	port := harness.Port(t)
	p := InProcess{
		Library: filepath.Join(dir, "libjwt_bouncer.so"),
		Config:  harness.WriteFile(t, dir, "config.yaml", fmt.Sprintf("listen: {http: '127.0.0.1:%d'}\n%s", port, rig.Config)),
	}
	build := exec.CommandContext(t.Context(), "make", "module")
	build.Dir = harness.Root()
	out, err := build.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	b, err := os.ReadFile(filepath.Join(harness.Root(), "bin", "libjwt_bouncer.so"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(p.Library, b, 0o755))
	rig.Bouncer = &harness.BouncerServer{HTTP: fmt.Sprintf("http://127.0.0.1:%d", port)}
	return p
}

// Paths replaces the paths of docs/in-process.md in a block, each of which occurs once.
func (p InProcess) Paths(t testing.TB, block string) string {
	t.Helper()
	return Patch(t, Patch(t, block, guideLibrary, p.Library), guideConfig, p.Config)
}
