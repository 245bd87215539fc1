package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/envoy/filter"
)

// moduleName is the name by which Envoy finds the library of envoy/module.
const moduleName = "jwt_bouncer"

// NeedsCompiler skips the test where there is no C compiler, which the dynamic module
// needs. In CI it fails the test.
func NeedsCompiler(t testing.TB) {
	t.Helper()
	NeedsProcess(t)
	if _, err := exec.LookPath("gcc"); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("the dynamic module needs a C compiler, and gcc is not installed")
	}
	t.Skip("the dynamic module needs a C compiler: install gcc")
}

// ModuleEnvoy builds the dynamic module, once per test process and with the tag harm,
// and returns what Envoy needs to find it. The Envoy is that of
// JWT_BOUNCER_MODULE_ENVOY, a path, if it is set.
func ModuleEnvoy(t testing.TB) EnvoyOptions {
	t.Helper()
	NeedsCompiler(t)
	path, err := moduleLibrary()
	require.NoError(t, err)
	o := EnvoyOptions{Env: []string{"ENVOY_DYNAMIC_MODULES_SEARCH_PATH=" + filepath.Dir(path)}}
	if o.Binary = os.Getenv("JWT_BOUNCER_MODULE_ENVOY"); o.Binary != "" {
		o.Binary, err = reachable(o.Binary)
		require.NoError(t, err)
	}
	if ModuleForARM64() {
		o.Binary, err = emulatedEnvoy()
		require.NoError(t, err)
	}
	if ModuleSanitized() {
		path, err := moduleEnvoyPath()
		require.NoError(t, err)
		binary, env, err := sanitizedEnvoy(path)
		require.NoError(t, err)
		o.Binary, o.Env = binary, append(o.Env, env...)
	}
	return o
}

// ModuleLibrary returns the path of the library that ModuleEnvoy builds.
func ModuleLibrary(t testing.TB) string {
	t.Helper()
	dir, _ := strings.CutPrefix(ModuleEnvoy(t).Env[0], "ENVOY_DYNAMIC_MODULES_SEARCH_PATH=")
	return filepath.Join(dir, "lib"+moduleName+".so")
}

// ModuleEnvoyPath returns the path of the Envoy of ModuleEnvoy.
func ModuleEnvoyPath(t testing.TB) string {
	t.Helper()
	path, err := moduleEnvoyPath()
	require.NoError(t, err)
	if ModuleSanitized() {
		path, _, err = sanitizedEnvoy(path)
		require.NoError(t, err)
	}
	return path
}

func moduleEnvoyPath() (string, error) {
	if path := os.Getenv("JWT_BOUNCER_MODULE_ENVOY"); path != "" {
		return path, nil
	}
	return envoyPath()
}

// OldModuleEnvoy reports whether the Envoy of ModuleEnvoy is older than 1.40.
func OldModuleEnvoy(t testing.TB) bool {
	t.Helper()
	version, err := filter.CheckABI(ModuleEnvoyPath(t), false)
	require.NoError(t, err)
	return version == "v0.1.0"
}

// ModuleFilter returns the HTTP filter that runs the dynamic module with the
// configuration file, as a YAML flow mapping.
func ModuleFilter(file string) string {
	return fmt.Sprintf(`{name: envoy.filters.http.dynamic_modules, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter, dynamic_module_config: {name: %s, do_not_close: true}, filter_name: jwt_bouncer, filter_config: {"@type": type.googleapis.com/google.protobuf.StringValue, value: %s}}}`, moduleName, file)
}

var moduleLibrary = sync.OnceValues(func() (string, error) {
	dir, err := newDir()
	if err != nil {
		return "", err
	}
	atEnd(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "lib"+moduleName+".so")
	exports := filepath.Join(Root(), "envoy/module/exports.map")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-tags", "grpcnotrace,harm",
		"-ldflags", "-s -w -extldflags=-Wl,--version-script="+exports, "-o", path, "./envoy/module")
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if ModuleSanitized() {
		sanitizeBuild(cmd)
	}
	if ModuleForARM64() {
		crossBuild(cmd)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, os.Chmod(path, 0o755)
})

// Module starts an Envoy in which the product runs, with the configuration and a port
// for HTTP, and waits until the product is ready. The BouncerServer is that process: it
// has no gRPC address and cannot be started again.
func Module(t testing.TB, configYAML, upstream string, options ...FrontOptions) (*BouncerServer, *Front) {
	t.Helper()
	ModuleEnvoy(t) // builds it before the port is chosen
	http := "127.0.0.1:" + fmt.Sprint(Port(t))
	b := &BouncerServer{HTTP: "http://" + http, dir: Dir(t)}
	b.Config = WriteFile(t, b.dir, "config.yaml", b.listen()+configYAML)
	f := NewFront(t, "module://"+b.Config, upstream, options...)
	b.Process = f.Process
	require.NoError(t, b.await(readyTime, b.Ready))
	return b, f
}

// listen is the listen stanza.
func (b *BouncerServer) listen() string {
	text := "listen:\n"
	if b.GRPC != "" {
		text += "  grpc: " + b.GRPC + "\n"
	}
	return text + "  http: " + strings.TrimPrefix(b.HTTP, "http://") + "\n"
}

// Door returns an Envoy in front of upstream (host:port) that asks the first sidecar, or
// in which the product itself runs with the same configuration and store.
func (r *Rig) Door(t testing.TB, module bool, upstream string, o FrontOptions) *Front {
	t.Helper()
	if module {
		_, f := Module(t, r.Config, upstream, o)
		return f
	}
	return NewFront(t, r.Bouncer.GRPC, upstream, o)
}
