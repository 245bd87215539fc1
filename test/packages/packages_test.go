// Package packages builds the deb and the rpm that .goreleaser.yaml describes and
// installs them. It is a module of its own, because nfpm has many dependencies.
package packages

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers the format
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm" // registers the format
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const root = "../.."

// settings are the parts of .goreleaser.yaml that make a package.
type settings struct {
	Builds []struct {
		Flags, Tags []string
	}
	Packages []struct {
		Name         string `yaml:"package_name"`
		Formats      []string
		Section      string
		Maintainer   string
		Homepage     string
		Description  string
		License      string
		Bindir       string
		Dependencies []string
		Recommends   []string
		Contents     files.Contents
		Scripts      nfpm.Scripts
	} `yaml:"nfpms"`
}

func read(t *testing.T) settings {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, ".goreleaser.yaml"))
	require.NoError(t, err)
	var s settings
	require.NoError(t, yaml.Unmarshal(text, &s))
	require.Len(t, s.Builds, 1)
	require.Len(t, s.Packages, 1)
	return s
}

// binary builds the product once, with the flags of the release.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "jwt-bouncer-packages-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "jwt-bouncer")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w -X main.version=1.2.3", "-o", path, ".")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", &fs.PathError{Op: "go build: " + out.String(), Path: root, Err: err}
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// build writes the package of one format and returns its path. It does what
// goreleaser does with the section nfpms.
func build(t *testing.T, format string) string {
	t.Helper()
	s := read(t)
	assert.Equal(t, []string{"grpcnotrace"}, s.Builds[0].Tags, "this test builds with other tags")
	assert.Equal(t, []string{"-trimpath"}, s.Builds[0].Flags, "this test builds with other flags")
	p := s.Packages[0]
	require.Contains(t, p.Formats, format)
	path, err := binary()
	require.NoError(t, err)
	run(t, filepath.Join(root, "scripts/release-files.sh"), filepath.Join(root, "bin/release"), "1.2.3") // goreleaser's hook
	var contents files.Contents
	for _, c := range p.Contents {
		if c.Source != "" {
			c.Source = filepath.Join(root, c.Source)
		}
		contents = append(contents, c)
	}
	contents = append(contents, &files.Content{Source: path, Destination: filepath.Join(p.Bindir, "jwt-bouncer"), FileInfo: &files.ContentFileInfo{Mode: 0o755}})
	example := func(text string) string {
		return strings.ReplaceAll(text, "{{ .Env.REPOSITORY }}", "git.example/jwt-bouncer")
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: p.Name, Arch: runtime.GOARCH, Platform: "linux", Version: "1.2.3", Section: p.Section,
		Maintainer: example(p.Maintainer), Homepage: example(p.Homepage), Description: p.Description, License: p.License,
		Overridables: nfpm.Overridables{
			Depends: p.Dependencies, Recommends: p.Recommends, Contents: contents,
			Scripts: nfpm.Scripts{
				PostInstall: filepath.Join(root, p.Scripts.PostInstall),
				PreRemove:   filepath.Join(root, p.Scripts.PreRemove),
				PostRemove:  filepath.Join(root, p.Scripts.PostRemove),
			},
		},
	})
	require.NoError(t, nfpm.PrepareForPackager(info, format))
	packager, err := nfpm.Get(format)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), packager.ConventionalFileName(info))
	out, err := os.Create(file)
	require.NoError(t, err)
	require.NoError(t, packager.Package(info, out))
	require.NoError(t, out.Close())
	return file
}

// run runs a command and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoErrorf(t, err, "%s %s\n%s", name, strings.Join(args, " "), out)
	return string(out)
}

// modes are the files of a package.
var modes = map[string]fs.FileMode{
	"/usr/bin/jwt-bouncer":                               0o755,
	"/usr/lib/systemd/system/jwt-bouncer.service":        0o644,
	"/usr/lib/sysusers.d/jwt-bouncer.conf":               0o644,
	"/usr/lib/tmpfiles.d/jwt-bouncer.conf":               0o644,
	"/usr/share/bash-completion/completions/jwt-bouncer": 0o644,
	"/usr/share/man/man1/jwt-bouncer.1":                  0o644,
	"/usr/share/doc/jwt-bouncer/copyright":               0o644,
	"/usr/share/doc/jwt-bouncer/README.md":               0o644,
	"/usr/share/doc/jwt-bouncer/CHANGELOG.md":            0o644,
	"/usr/share/doc/jwt-bouncer/examples/envoy.yaml":     0o644,
	"/etc/jwt-bouncer/jwt-bouncer.yaml":                  0o640,
}

// contents checks the files below dir.
func contents(t *testing.T, dir string) {
	t.Helper()
	for name, mode := range modes {
		info, err := os.Stat(dir + name)
		if assert.NoErrorf(t, err, "%s", name) {
			assert.Equalf(t, mode, info.Mode().Perm(), "mode of %s", name)
		}
	}
	assert.Contains(t, run(t, dir+"/usr/bin/jwt-bouncer", "version"), "jwt-bouncer 1.2.3 (")
	run(t, dir+"/usr/bin/jwt-bouncer", "config", "check", dir+"/etc/jwt-bouncer/jwt-bouncer.yaml")
}

// dpkg installs the deb into an empty root, runs its scripts there, keeps a changed
// configuration in an upgrade, and removes it again.
func TestDeb(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("dpkg installs only as root; CI runs this test with sudo")
	}
	deb, target := build(t, "deb"), t.TempDir()
	info := run(t, "dpkg-deb", "--info", deb)
	for _, line := range []string{"Package: jwt-bouncer", "Version: 1.2.3", "Depends: systemd", "Recommends: ca-certificates", "Section: net"} {
		assert.Contains(t, info, line)
	}
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"} {
		require.NoError(t, os.MkdirAll(filepath.Join(target, dir), 0o755))
	}
	for _, file := range []string{"var/lib/dpkg/status", "var/lib/dpkg/available", "etc/passwd", "etc/group"} {
		require.NoError(t, os.WriteFile(filepath.Join(target, file), nil, 0o644))
	}
	// systemd is a dependency that the empty root does not have.
	dpkg := func(args ...string) {
		run(t, "dpkg", append([]string{"--root=" + target, "--force-script-chrootless", "--force-depends", "--force-confold", "--log=" + filepath.Join(target, "dpkg.log")}, args...)...)
	}
	dpkg("--install", deb)
	contents(t, target)
	passwd, err := os.ReadFile(filepath.Join(target, "etc/passwd"))
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^jwt-bouncer:x:\d+:\d+:jwt-bouncer:/var/lib/jwt-bouncer:.*nologin$`, string(passwd), "the package creates the user")
	gid := regexp.MustCompile(`(?m)^jwt-bouncer:x:\d+:(\d+):`).FindStringSubmatch(string(passwd))
	require.NotNil(t, gid)
	for name, mode := range map[string]string{"/etc/jwt-bouncer": "750", "/etc/jwt-bouncer/jwt-bouncer.yaml": "640"} {
		assert.Equalf(t, mode+" 0 "+gid[1]+"\n", run(t, "stat", "-c", "%a %u %g", target+name), "%s is readable for the service and for nobody else", name)
	}

	changed := []byte("# mine\n")
	require.NoError(t, os.WriteFile(filepath.Join(target, "etc/jwt-bouncer/jwt-bouncer.yaml"), changed, 0o640))
	dpkg("--install", deb)
	kept, err := os.ReadFile(filepath.Join(target, "etc/jwt-bouncer/jwt-bouncer.yaml"))
	require.NoError(t, err)
	assert.Equal(t, changed, kept, "an upgrade has replaced the configuration")

	dpkg("--remove", "jwt-bouncer")
	assert.NoFileExists(t, filepath.Join(target, "usr/bin/jwt-bouncer"))
	assert.FileExists(t, filepath.Join(target, "etc/jwt-bouncer/jwt-bouncer.yaml"), "only a purge removes the configuration")
	dpkg("--purge", "jwt-bouncer")
	assert.NoFileExists(t, filepath.Join(target, "etc/jwt-bouncer/jwt-bouncer.yaml"))
}

// The rpm has the files and the scripts of the deb. Its names are absolute, so cpio
// must not take them literally.
func TestRPM(t *testing.T) {
	rpm, target := build(t, "rpm"), t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `rpm2cpio "$1" | (cd "$2" && cpio --extract --make-directories --no-absolute-filenames --quiet)`, "sh", rpm, target)
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s\n(apt-get install rpm2cpio cpio)", out)
	contents(t, target)
	if _, err := exec.LookPath("rpm"); err != nil {
		return
	}
	db := "--dbpath=" + t.TempDir()
	assert.Contains(t, run(t, "rpm", db, "-qp", "--requires", rpm), "systemd\n")
	scripts := run(t, "rpm", db, "-qp", "--scripts", rpm)
	for _, part := range []string{"postinstall scriptlet", "preuninstall scriptlet", "postuninstall scriptlet", "systemd-sysusers"} {
		assert.Contains(t, scripts, part)
	}
	assert.Equal(t, "/etc/jwt-bouncer/jwt-bouncer.yaml\n", run(t, "rpm", db, "-qp", "--configfiles", rpm), "an upgrade must keep the configuration")
}

// systemd accepts the unit and judges it as well confined.
func TestUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("there is no systemd-analyze; CI has one")
	}
	target := t.TempDir()
	unit, err := os.ReadFile(filepath.Join(root, "scripts/packaging/jwt-bouncer.service"))
	require.NoError(t, err)
	path, err := binary()
	require.NoError(t, err)
	file := filepath.Join(target, "jwt-bouncer.service")
	require.NoError(t, os.WriteFile(file, bytes.ReplaceAll(unit, []byte("/usr/bin/jwt-bouncer"), []byte(path)), 0o644))
	assert.Empty(t, run(t, "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", file))
	// The scale is 0 (confined) to 100; a service without any setting has 96.
	run(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", file)
}
