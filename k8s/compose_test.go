package k8s

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// compose loads a compose file as `docker compose` does, has the programs
// validate their configurations, and checks the services.
func compose(ctx context.Context, file string) error {
	// The broken copies of the repository's file name its other files.
	dir := ".."
	if filepath.Base(filepath.Dir(file)) == "my" {
		dir = filepath.Dir(file)
	}
	options, err := cli.NewProjectOptions([]string{file}, cli.WithWorkingDirectory(dir), cli.WithConsistency(true), cli.WithInterpolation(true), cli.WithNormalization(true))
	if err != nil {
		return err
	}
	p, err := options.LoadProject(ctx)
	if err != nil {
		return err
	}
	stages, err := dockerStages()
	if err != nil {
		return err
	}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for name, c := range p.Configs {
		text := c.Content
		if c.File != "" {
			b, err := os.ReadFile(c.File)
			if err != nil {
				fail("config %s: %w", name, err)
				continue
			}
			text = string(b)
		}
		switch name {
		case "envoy":
			errs = append(errs, envoyValidate(text))
		case "jwt-bouncer":
			errs = append(errs, configCheck(text))
		}
	}
	for name, s := range p.Services {
		own := s.Build != nil
		if own && s.Build.Target != "" && !slices.Contains(stages, s.Build.Target) {
			fail("%s: the Dockerfile has no stage %q", name, s.Build.Target)
		}
		if !own && (!strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest")) {
			fail("%s: image %q has no fixed tag", name, s.Image)
		}
		if s.Privileged || s.NetworkMode == "host" || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			fail("%s: is not confined", name)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				fail("%s: port %s is published beyond loopback", name, port.Published)
			}
		}
		for dep, d := range s.DependsOn {
			to := p.Services[dep]
			healthy := to.HealthCheck != nil && !to.HealthCheck.Disable || to.Build != nil && to.Build.Target == "" && to.HealthCheck == nil // the image has one
			if d.Condition == types.ServiceConditionHealthy && !healthy {
				fail("%s waits for the health of %s, which has no check", name, dep)
			}
		}
	}
	if r, ok := p.Services["redis"]; dir == ".." && !ok || ok && (!strings.HasPrefix(r.Image, "redis:7") || !slices.Contains(r.Command, "--appendonly") || r.HealthCheck == nil) {
		fail("redis: want version 7, append-only mode and a health check")
	}
	return errors.Join(errs...)
}

// dockerStages returns the names of the Dockerfile's stages.
func dockerStages() ([]string, error) {
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		return nil, err
	}
	file, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	stages, _, err := instructions.Parse(file.AST, nil)
	var names []string
	for _, s := range stages {
		names = append(names, s.Name)
	}
	return names, err
}

func TestCompose(t *testing.T) {
	t.Parallel()
	require.NoError(t, compose(t.Context(), "../docker-compose.yml"))
	text, err := os.ReadFile("../docker-compose.yml")
	require.NoError(t, err)
	for name, c := range map[string][3]string{
		"unknown key":         {"depends_on:", "depend_on:", "depend_on"},
		"unknown service":     {"upstream: {condition: service_started}", "upstreams: {condition: service_started}", "upstreams"},
		"bad condition":       {"condition: service_completed_successfully", "condition: service_completed", "condition"},
		"no health check":     {"issuer: {condition: service_started}", "issuer: {condition: service_healthy}", "which has no check"},
		"published":           {`"127.0.0.1:8080:8080"`, `"8080:8080"`, "beyond loopback"},
		"missing config file": {"envoy/compose.yaml", "envoy/composed.yaml", "composed.yaml"},
		"undeclared config":   {"source: api-token,", "source: api-tokens,", "api-tokens"},
		"product's config":    {"audiences: [demo]", "audience: [demo]", "unknown key"},
		"latest":              {"distroless-v1.40.0", "latest", "no fixed tag"},
		"no stage":            {"target: demo", "target: dome", "has no stage"},
		"redis":               {`"--appendonly", "yes", `, "", "append-only"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !bytes.Contains(text, []byte(c[0])) {
				t.Fatalf("the file does not contain %q", c[0])
			}
			broken := filepath.Join(t.TempDir(), "docker-compose.yml")
			require.NoError(t, os.WriteFile(broken, bytes.Replace(text, []byte(c[0]), []byte(c[1]), 1), 0o600))
			if err := compose(t.Context(), broken); err == nil || !strings.Contains(err.Error(), c[2]) {
				t.Errorf("want an error with %q, got: %v", c[2], err)
			}
		})
	}
}

// TestDockerfile parses the Dockerfile with BuildKit's parser. The image is a
// static binary on an empty base, runs as another user than root, and builds from
// the files that .dockerignore admits.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../Dockerfile")
	require.NoError(t, err)
	file, err := parser.Parse(bytes.NewReader(text))
	require.NoError(t, err)
	for _, w := range file.Warnings {
		t.Error(w.Short)
	}
	stages, _, err := instructions.Parse(file.AST, nil)
	require.NoError(t, err)
	last := stages[len(stages)-1]
	assert.Equalf(t, "scratch", last.BaseName, "the image is based on %s", last.BaseName)
	var user, entry, health bool
	for _, c := range last.Commands {
		switch c := c.(type) {
		case *instructions.UserCommand:
			user = c.User == "65532:65532"
		case *instructions.EntrypointCommand:
			entry = !c.PrependShell && slices.Equal(c.CmdLine, []string{"/jwt-bouncer"})
		case *instructions.HealthCheckCommand:
			health = slices.Equal(c.Health.Test, []string{"CMD", "/jwt-bouncer", "health"})
		case *instructions.RunCommand:
			t.Error("RUN cannot work in an empty image")
		}
	}
	assert.Falsef(t, !user || !entry || !health, "as expected: user %t, entry point %t, health check %t", user, entry, health)
	assert.False(t, !bytes.Contains(text, []byte("CGO_ENABLED=0")) || !bytes.Contains(text, []byte("--platform=$BUILDPLATFORM")), "the build is not static, or emulates the target architecture")
	// An image built as documented knows its version.
	assert.False(t, !bytes.Contains(text, []byte("VERSION=dev\n")) || !bytes.Contains(text, []byte("main.version=$VERSION")), "the build takes no VERSION")
	guide, err := os.ReadFile("../docs/kubernetes.md")
	require.NoError(t, err)
	for where, page := range map[string][]byte{"Dockerfile": text, "docs/kubernetes.md": guide} {
		m := regexp.MustCompile(`docker buildx build .*`).Find(page)
		version := regexp.MustCompile(`--build-arg VERSION=(\S+) .*-t \S+:(\S+) \.`).FindSubmatch(m)
		if assert.NotNilf(t, version, "%s: %s: VERSION is not the image's tag", where, m) {
			assert.Equalf(t, version[2], version[1], "%s: %s: VERSION is not the image's tag", where, m)
		}
	}
	goMod, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	for line := range strings.Lines(string(goMod)) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "go "); ok {
			if want := "golang:" + strings.Join(strings.Split(version, ".")[:2], "."); !strings.HasPrefix(stages[0].BaseName, want) {
				t.Errorf("built with %s, go.mod wants %s", stages[0].BaseName, want)
			}
		}
	}
	// The build context contains every package that the two programs are built from.
	ignore, err := os.ReadFile("../.dockerignore")
	require.NoError(t, err)
	admitted := func(path string) bool {
		for line := range strings.Lines(string(ignore)) {
			if dir, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok && (path == dir || strings.HasPrefix(path, dir+"/")) {
				return true
			}
		}
		return false
	}
	for _, path := range append(programPackages(t), "main.go", "go.mod", "go.sum") {
		assert.Truef(t, admitted(path), ".dockerignore excludes %s", path)
	}
	assert.False(t, admitted("k8s"), ".dockerignore admits everything")
}

// programPackages returns the directories, relative to the module, of the packages
// that the product and the demo are built from; the product's own is left out.
func programPackages(t *testing.T) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}", ".", "./test/demo")
	cmd.Dir = ".."
	out, err := cmd.Output()
	require.NoError(t, err)
	var dirs []string
	for path := range strings.FieldsSeq(string(out)) {
		if _, dir, ok := strings.Cut(path, "/"); ok {
			dirs = append(dirs, dir)
		}
	}
	require.Contains(t, dirs, "authz")
	require.Contains(t, dirs, "test/demo")
	return dirs
}
