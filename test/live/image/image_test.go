package image

import (
	"archive/tar"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// TestImage builds the image of the Dockerfile, and checks its layers, its
// configuration and the modules in its program, and that it runs.
func TestImage(t *testing.T) {
	require.Zero(t, os.Geteuid(), "root is needed to give files their owner, and for a chroot")
	all := stages(t, "Dockerfile")
	require.Equal(t, "build", all[0].Name)
	out := buildRoot(t, all[0])
	image := writeLayout(t, build(t, all[len(all)-1], out))
	require.NoError(t, validate.Image(image))

	t.Run("layers", func(t *testing.T) { layers(t, image) })
	t.Run("configuration", func(t *testing.T) { configuration(t, image, out) })
	root := unpack(t, image)
	t.Run("modules", func(t *testing.T) { modules(t, filepath.Join(root, "jwt-bouncer")) })
	t.Run("runs", func(t *testing.T) { runs(t, image, root) })
}

// entry is what is checked of a file in the image.
type entry struct {
	kind byte
	mode int64
	uid  int
}

func layers(t *testing.T, image v1.Image) {
	t.Helper()
	all, err := image.Layers()
	require.NoError(t, err)
	assert.Len(t, all, 4, "certificates, two directories, the program")
	files := mutate.Extract(image)
	defer files.Close()
	got := map[string]entry{}
	for r := tar.NewReader(files); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		got[strings.TrimSuffix(h.Name, "/")] = entry{h.Typeflag, h.Mode & 0o7777, h.Uid}
	}
	dir := entry{tar.TypeDir, 0o755, 0}
	assert.Equal(t, map[string]entry{
		"etc": dir, "etc/ssl": dir, "etc/ssl/certs": dir, "etc/ssl/certs/ca-certificates.crt": {tar.TypeReg, 0o644, 0},
		"var": dir, "var/lib": dir, "var/lib/jwt-bouncer": {tar.TypeDir, 0o755, 65532},
		"run": dir, "run/jwt-bouncer": {tar.TypeDir, 0o755, 65532},
		"jwt-bouncer": {tar.TypeReg, 0o755, 0},
	}, got)
}

func configuration(t *testing.T, image v1.Image, out string) {
	t.Helper()
	file, err := image.ConfigFile()
	require.NoError(t, err)
	c := file.Config
	assert.Equal(t, "65532:65532", c.User)
	assert.Equal(t, []string{"/jwt-bouncer"}, c.Entrypoint)
	assert.Equal(t, []string{"serve"}, c.Cmd)
	assert.Equal(t, []string{"JWT_BOUNCER_CONFIG=/etc/jwt-bouncer/jwt-bouncer.yaml"}, c.Env)
	assert.Equal(t, map[string]struct{}{"9191/tcp": {}, "9192/tcp": {}}, c.ExposedPorts)
	assert.Equal(t, []string{"CMD", "/jwt-bouncer", "health"}, c.Healthcheck.Test)
	assert.Equal(t, "jwt-bouncer", c.Labels["org.opencontainers.image.title"])
	assert.Equal(t, "Apache-2.0", c.Labels["org.opencontainers.image.licenses"])
	assert.Equal(t, "Envoy external authorization that makes revoked JWTs stop working", c.Labels["org.opencontainers.image.description"])

	// The release's Dockerfile makes the same image, but for the labels, which
	// goreleaser adds, and the path of the program.
	release := stages(t, "Dockerfile.release")
	last := release[len(release)-1]
	other, err := build(t, last, out).ConfigFile()
	require.NoError(t, err)
	assert.Empty(t, other.Config.Labels)
	c.Labels, other.Config.Labels = nil, nil
	assert.Equal(t, c, other.Config)
	assert.Equal(t, file.RootFS, other.RootFS, "the layers")
}

// modules requires that the program names the modules that it contains, in the
// versions of go.mod: scanners and SBOM generators read them there.
func modules(t *testing.T, program string) {
	t.Helper()
	info, err := buildinfo.ReadFile(program)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "go", "list", "-tags", "grpcnotrace", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", ".")
	cmd.Dir, cmd.Env = harness.Root(), append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	require.NoError(t, err)
	want, got := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			want[line] = true
		}
	}
	for _, m := range info.Deps {
		got[m.Path+" "+m.Version] = true
	}
	assert.Greater(t, len(want), 10)
	assert.Equal(t, want, got)
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	assert.Equal(t, "0", settings["CGO_ENABLED"])
	assert.Equal(t, "grpcnotrace", settings["-tags"])
	assert.Equal(t, "true", settings["-trimpath"])
}

// script prepares the file system as a container runtime does, and becomes the
// program: all of it read-only, a /proc, the configuration, and two writable
// directories that are empty.
const script = `set -e
PATH=$PATH:/usr/sbin:/sbin
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount --bind "$CONFIG" "$ROOT/etc/jwt-bouncer"
mount -t proc proc "$ROOT/proc"
for dir in run/jwt-bouncer var/lib/jwt-bouncer; do mount -t tmpfs -o uid=65532,gid=65532,mode=755 tmpfs "$ROOT/$dir"; done
mount -o remount,bind,ro "$ROOT"
exec setpriv --no-new-privs chroot --userspec="$IMAGE_USER" --groups= "$ROOT" "$@"
`

// container runs the command of the image, or another, in its file system.
type container struct {
	config v1.Config
	root   string
	mounts string // directory that is mounted at /etc/jwt-bouncer
}

func (c container) command(args ...string) (name string, argv, env []string) {
	if len(args) == 0 {
		args = append(append([]string{}, c.config.Entrypoint...), c.config.Cmd...)
	}
	argv = append([]string{"--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "/bin/sh", "-c", script, "container"}, args...)
	return "unshare", argv, append([]string{"ROOT=" + c.root, "CONFIG=" + c.mounts, "IMAGE_USER=" + c.config.User}, c.config.Env...)
}

func runs(t *testing.T, image v1.Image, root string) {
	t.Helper()
	file, err := image.ConfigFile()
	require.NoError(t, err)
	for _, dir := range []string{"etc/jwt-bouncer", "proc"} { // a runtime makes the places of mounts
		require.NoError(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	c := container{file.Config, root, harness.Dir(t)}
	require.NoError(t, os.Chmod(c.mounts, 0o755))
	issuer := authztest.NewIssuer(authztest.Named("https://issuer.example"))
	t.Cleanup(issuer.Close)
	grpc, http := fmt.Sprint("127.0.0.1:", harness.Port(t)), fmt.Sprint("127.0.0.1:", harness.Port(t))
	require.NoError(t, os.WriteFile(filepath.Join(c.mounts, "jwt-bouncer.yaml"), []byte(fmt.Sprintf(`listen: {grpc: %q, http: %q}
issuers:
  - {issuer: https://issuer.example, audiences: [api], jwks: %q}
store: sqlite:///var/lib/jwt-bouncer/revocations.db
`, grpc, http, issuer.JWKSURL())), 0o644))
	name, argv, env := c.command()
	sidecar := &harness.BouncerServer{HTTP: "http://" + http, GRPC: grpc}
	sidecar.Process = harness.Server(t, harness.ServerOptions{Name: "image", Path: name, Args: argv, Env: env, Self: true, Ready: sidecar.Ready, Within: time.Minute})

	front := harness.NewFront(t, grpc, harness.Upstream(t).Addr)
	token := issuer.Mint(nil)
	assert.Equal(t, 401, front.Get(t).Status, "no token")
	assert.Equal(t, 200, front.Bearer(t, token).Status, "a valid token")
	receipt, err := harness.PostRevocation(t.Context(), sidecar.HTTP, map[string]any{"token": token})
	require.NoError(t, err)
	require.Equal(t, 201, receipt.Status, receipt.Body)
	front.AwaitStatus(t, token, 401, 30*time.Second)

	pid := child(t, sidecar.PID())
	confined(t, pid)
	c.run(t, file.Config.Healthcheck.Test[1:]...)
	assert.Contains(t, c.run(t, "/jwt-bouncer", "version"), "jwt-bouncer "+version)

	require.NoError(t, syscall.Kill(pid, syscall.SIGTERM)) // as a runtime does
	code, err := sidecar.ExitCode(30 * time.Second)
	require.NoError(t, err)
	assert.Zero(t, code, "a signal to terminate ends it in order")
}

// run runs a command to its end, which must be good, and returns what it printed.
func (c container) run(t *testing.T, args ...string) string {
	t.Helper()
	name, argv, env := c.command(args...)
	cmd := exec.CommandContext(t.Context(), name, argv...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%v: %s", args, out)
	return string(out)
}

// child returns the only child of a process.
func child(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	require.NoError(t, err)
	children := strings.Fields(string(text))
	require.Len(t, children, 1)
	id, err := strconv.Atoi(children[0])
	require.NoError(t, err)
	return id
}

// confined requires that a process runs as the image's user, cannot become another
// one, has no capability, and has a root that it cannot write.
func confined(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for _, want := range []string{"Name:\tjwt-bouncer\n", "Uid:\t65532\t65532\t65532\t65532\n", "Gid:\t65532\t65532\t65532\t65532\n", "NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n"} {
		assert.Contains(t, string(status), want)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^\d+ \d+ \S+ \S+ / ro,`, string(mounts), "the root is mounted read-only")
}
