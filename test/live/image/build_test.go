package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

const version = "1.2.3"

// stages parses a Dockerfile with BuildKit's parser.
func stages(t *testing.T, name string) []instructions.Stage {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), name))
	require.NoError(t, err)
	file, err := parser.Parse(bytes.NewReader(text))
	require.NoError(t, err)
	all, _, err := instructions.Parse(file.AST, nil)
	require.NoError(t, err)
	return all
}

// buildContext copies what .dockerignore admits.
func buildContext(t *testing.T) string {
	t.Helper()
	ignore, err := os.Open(filepath.Join(harness.Root(), ".dockerignore"))
	require.NoError(t, err)
	defer ignore.Close()
	patterns, err := ignorefile.ReadAll(ignore)
	require.NoError(t, err)
	excluded, err := patternmatcher.New(patterns)
	require.NoError(t, err)
	to := t.TempDir()
	require.NoError(t, filepath.WalkDir(harness.Root(), func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(harness.Root(), file)
		if err != nil || name == "." {
			return err
		}
		if name == ".git" || name == ".tools" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		out, err := excluded.MatchesOrParentMatches(name)
		if err != nil || out || d.IsDir() || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, 0o644)
	}))
	return to
}

// buildRoot runs the commands of the stage "build" on this machine, in a copy of the
// build context, and returns the directory that stands for the stage's /out.
func buildRoot(t *testing.T, stage instructions.Stage) string {
	t.Helper()
	context, out := buildContext(t), t.TempDir()
	ran := 0
	for _, c := range stage.Commands {
		run, ok := c.(*instructions.RunCommand)
		if !ok {
			continue
		}
		require.True(t, run.PrependShell)
		command := strings.ReplaceAll(strings.Join(run.CmdLine, " "), "/out/", out+"/")
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
		cmd.Dir = context
		cmd.Env = append(os.Environ(), "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH, "VERSION="+version, "GOFLAGS=")
		text, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "%s\n%s", command, text)
		ran++
	}
	require.Equal(t, 3, ran, "the stage downloads modules, builds, and makes directories")
	return out
}

// build makes the image of a Dockerfile whose stage "build" has been run.
func build(t *testing.T, stage instructions.Stage, out string) v1.Image {
	t.Helper()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	config := v1.Config{Labels: map[string]string{}, ExposedPorts: map[string]struct{}{}}
	for _, c := range stage.Commands {
		switch c := c.(type) {
		case *instructions.CopyCommand:
			require.Len(t, c.SourcePaths, 1)
			// goreleaser puts the program into the context, by platform.
			from := strings.NewReplacer("/out/", out+"/", "$TARGETPLATFORM/", out+"/").Replace(c.SourcePaths[0])
			layer := layerOf(t, from, c.DestPath, c.Chown)
			var err error
			image, err = mutate.Append(image, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{CreatedBy: c.String()}})
			require.NoError(t, err)
		default:
			configure(t, &config, c)
		}
	}
	file, err := image.ConfigFile()
	require.NoError(t, err)
	file = file.DeepCopy()
	file.Config, file.OS, file.Architecture = config, "linux", runtime.GOARCH
	image, err = mutate.ConfigFile(image, file)
	require.NoError(t, err)
	return image
}

// configure applies an instruction that adds no layer.
func configure(t *testing.T, config *v1.Config, command instructions.Command) {
	t.Helper()
	switch c := command.(type) {
	case *instructions.LabelCommand:
		for _, l := range c.Labels {
			config.Labels[l.Key] = strings.Trim(l.Value, `"`)
		}
	case *instructions.UserCommand:
		config.User = c.User
	case *instructions.ExposeCommand:
		for _, p := range c.Ports {
			config.ExposedPorts[p+"/tcp"] = struct{}{}
		}
	case *instructions.EnvCommand:
		for _, e := range c.Env {
			config.Env = append(config.Env, e.Key+"="+e.Value)
		}
	case *instructions.HealthCheckCommand:
		config.Healthcheck = &v1.HealthConfig{Test: c.Health.Test, Interval: c.Health.Interval, Timeout: c.Health.Timeout, StartPeriod: c.Health.StartPeriod}
	case *instructions.EntrypointCommand:
		require.False(t, c.PrependShell, "there is no shell in the image")
		config.Entrypoint = c.CmdLine
	case *instructions.CmdCommand:
		require.False(t, c.PrependShell, "there is no shell in the image")
		config.Cmd = c.CmdLine
	case *instructions.ArgCommand:
	default:
		t.Fatalf("the test does not know the instruction %s", c.Name())
	}
}

// layerOf returns a layer with one file or directory, and the directories above it.
func layerOf(t *testing.T, from, to, owner string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	uid := 0
	if owner != "" {
		user, _, _ := strings.Cut(owner, ":")
		var err error
		uid, err = strconv.Atoi(user)
		require.NoError(t, err)
	}
	for dir := path.Dir(to); dir != "/"; dir = path.Dir(dir) {
		require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o755, ModTime: time.Unix(0, 0)}))
	}
	info, err := os.Stat(from)
	require.NoError(t, err)
	h := &tar.Header{Typeflag: tar.TypeDir, Name: to[1:], Mode: int64(info.Mode().Perm()), Uid: uid, Gid: uid, ModTime: time.Unix(0, 0)}
	if info.IsDir() {
		h.Name += "/"
		entries, err := os.ReadDir(from)
		require.NoError(t, err)
		require.Emptyf(t, entries, "%s is an empty directory", from)
		require.NoError(t, w.WriteHeader(h))
	} else {
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		require.NoError(t, w.WriteHeader(h))
		file, err := os.Open(from)
		require.NoError(t, err)
		defer file.Close()
		_, err = io.Copy(w, file)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
	require.NoError(t, err)
	return layer
}

// writeLayout writes the image as an OCI layout, and returns it as read from there.
func writeLayout(t *testing.T, image v1.Image) v1.Image {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	require.NoError(t, l.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": version})))
	read, err := layout.ImageIndexFromPath(dir)
	require.NoError(t, err)
	manifest, err := read.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 1)
	image, err = read.Image(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	return image
}

// unpack writes the image's file system into a directory, with the owners of its
// files.
func unpack(t *testing.T, image v1.Image) string {
	t.Helper()
	root := harness.Dir(t)
	require.NoError(t, os.Chmod(root, 0o755))
	files := mutate.Extract(image)
	defer files.Close()
	r := tar.NewReader(files)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return root
		}
		require.NoError(t, err)
		require.Truef(t, filepath.IsLocal(h.Name), "the name %q", h.Name)
		name := filepath.Join(root, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			require.NoError(t, os.MkdirAll(name, h.FileInfo().Mode().Perm()))
		case tar.TypeReg:
			text, err := io.ReadAll(r)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(name, text, h.FileInfo().Mode().Perm()))
		default:
			t.Fatal(fmt.Sprintf("%s is neither a file nor a directory", h.Name))
		}
		require.NoError(t, os.Chown(name, h.Uid, h.Gid))
	}
}
