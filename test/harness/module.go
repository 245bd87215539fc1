package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
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
	return moduleEnvoy(t, harmLibrary)
}

// ReleaseModuleEnvoy is ModuleEnvoy with the library that `make module` builds.
func ReleaseModuleEnvoy(t testing.TB) EnvoyOptions {
	t.Helper()
	return moduleEnvoy(t, releaseLibrary)
}

func moduleEnvoy(t testing.TB, library func() (string, error)) EnvoyOptions {
	t.Helper()
	NeedsCompiler(t)
	path, err := library()
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
	return slices.Contains([]string{"1.38", "1.39"}, ModuleEnvoyVersion(t))
}

// ModuleEnvoyVersion returns the minor version of the Envoy of ModuleEnvoy, such as 1.40.
func ModuleEnvoyVersion(t testing.TB) string {
	t.Helper()
	sum, err := filter.Fingerprint(ModuleEnvoyPath(t))
	require.NoError(t, err)
	abis := filter.TestedABIs()
	i := slices.IndexFunc(abis, func(abi filter.ABI) bool { return abi.Fingerprint == sum })
	require.GreaterOrEqual(t, i, 0, "filter.TestedABIs lacks this Envoy: %s", sum)
	return abis[i].Envoy
}

// ModuleFilter returns the HTTP filter that runs the dynamic module with the
// configuration file, as a YAML flow mapping.
func ModuleFilter(file string) string {
	return fmt.Sprintf(`{name: envoy.filters.http.dynamic_modules, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter, dynamic_module_config: {name: %s, do_not_close: true}, filter_name: jwt_bouncer, filter_config: {"@type": type.googleapis.com/google.protobuf.StringValue, value: %s}}}`, moduleName, file)
}

var (
	harmLibrary    = sync.OnceValues(func() (string, error) { return buildModule("grpcnotrace,harm") })
	releaseLibrary = sync.OnceValues(func() (string, error) { return buildModule("grpcnotrace") })
)

func buildModule(tags string) (path string, err error) {
	dir, err := newDir()
	if err != nil {
		return "", err
	}
	atEnd(func() { _ = os.RemoveAll(dir) })
	path = filepath.Join(dir, "lib"+moduleName+".so")
	exports := filepath.Join(Root(), "envoy/module/exports.map")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-tags", tags,
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
}

// ThroughModule reports whether the rigs of this run have the dynamic module as their
// door, in place of ext_authz: if JWT_BOUNCER_DOOR is "module".
func ThroughModule() bool { return os.Getenv("JWT_BOUNCER_DOOR") == "module" }

// Module starts an Envoy in which the product runs, with the configuration and a port
// for HTTP, and waits until the product is ready. The BouncerServer is that process: it
// has no gRPC address, and Start starts the Envoy again.
func Module(t testing.TB, configYAML, upstream string, options ...FrontOptions) (*BouncerServer, *Front) {
	t.Helper()
	ModuleEnvoy(t) // builds it before the port is chosen
	http := "127.0.0.1:" + fmt.Sprint(Port(t))
	b := &BouncerServer{HTTP: "http://" + http, dir: Dir(t)}
	b.Config = WriteFile(t, b.dir, "config.yaml", b.listen()+configYAML)
	b.front = NewFront(t, "module://"+b.Config, upstream, options...)
	b.Process = b.front.Process
	require.NoError(t, b.await(readyTime, b.Ready))
	return b, b.front
}

// startModule starts the Envoy again. Its listener has another port then, which the Front
// learns.
func (b *BouncerServer) startModule(t testing.TB) {
	t.Helper()
	e := b.front.start(t)
	b.front.EnvoyServer, b.front.URL, b.Process = e, "http://"+e.Addr("front"), e.Process
	require.NoError(t, b.await(readyTime, b.Ready))
}

// BouncerAndFront starts the product, and an Envoy in front of upstream that asks it or,
// if ThroughModule, in which it runs.
func BouncerAndFront(t testing.TB, configYAML, upstream string) (*BouncerServer, *Front) {
	t.Helper()
	if ThroughModule() {
		return Module(t, configYAML, upstream)
	}
	b := Bouncer(t, configYAML)
	return b, NewFront(t, b.GRPC, upstream)
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

// Envoy starts an Envoy whose configuration has ext_authz filters, which ask the first
// sidecar. With module, the dynamic module takes the place of each of them: it has the
// rig's configuration and store. Envoy waits until it is ready.
func (r *Rig) Envoy(t testing.TB, module bool, configYAML string) *EnvoyServer {
	t.Helper()
	if !module {
		return Envoy(t, configYAML)
	}
	e, _ := r.ModuleEnvoy(t, "", configYAML)
	return e
}

// ModuleEnvoy is Envoy with the dynamic module, whose configuration has more stanzas. The
// BouncerServer is the product in it.
func (r *Rig) ModuleEnvoy(t testing.TB, more, configYAML string) (*EnvoyServer, *BouncerServer) {
	t.Helper()
	o := ModuleEnvoy(t)
	b := &BouncerServer{HTTP: "http://127.0.0.1:" + fmt.Sprint(Port(t))}
	file := WriteFile(t, Dir(t), "config.yaml", b.listen()+r.Config+more)
	var config, filter any
	require.NoError(t, yaml.Unmarshal([]byte(configYAML), &config))
	require.NoError(t, yaml.Unmarshal([]byte(ModuleFilter(file)), &filter))
	require.NotZero(t, replaceExtAuthz(config, filter), "there is no ext_authz to replace")
	text, err := json.Marshal(config)
	require.NoError(t, err)
	e := Envoy(t, string(text), o)
	require.NoError(t, e.await(readyTime, b.Ready))
	return e, b
}

// replaceExtAuthz replaces each ext_authz filter in a configuration, and returns how many
// there were.
func replaceExtAuthz(config, by any) (n int) {
	switch c := config.(type) {
	case map[string]any:
		for _, v := range c {
			n += replaceExtAuthz(v, by)
		}
	case []any:
		for i, v := range c {
			if m, ok := v.(map[string]any); ok && m["name"] == "envoy.filters.http.ext_authz" {
				c[i] = by
				n++
				continue
			}
			n += replaceExtAuthz(v, by)
		}
	}
	return n
}

// listen is the listen stanza.
func (b *BouncerServer) listen() string {
	text := "listen:\n"
	if b.GRPC != "" {
		text += "  grpc: " + b.GRPC + "\n"
	}
	return text + "  http: " + strings.TrimPrefix(b.HTTP, "http://") + "\n"
}
