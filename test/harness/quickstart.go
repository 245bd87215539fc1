package harness

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// QuickStart executes the commands of README's section "Use it" in a copy of the
// repository, as a reader does in a fresh clone, with an identity provider of the
// caller's. It requires that the token passes Envoy before the last command, which
// revokes it, and is denied afterwards.
//
// Only addresses are changed: of Envoy, the sidecar and the upstream, so that tests
// run at the same time, and the path of Envoy, where it is installed. httpPort is the
// port of the sidecar's HTTP, and flags are added to those of init. Envoy, which is
// returned, and the sidecar run until the test ends.
func QuickStart(t testing.TB, issuer, audience, token string, httpPort int, flags ...string) *Front {
	t.Helper()
	NeedsProcess(t)
	envoy, err := EnvoyPath()
	require.NoError(t, err)
	dir := Dir(t)
	require.NoError(t, copyRepository(dir))
	front, upstream := fmt.Sprint("127.0.0.1:", Port(t)), Upstream(t)
	const program = "bin/jwt-bouncer init "
	commands := quickStart(t)
	require.Len(t, commands, 5, "README promises five commands")
	setting := []string{"ISSUER=" + issuer, "AUDIENCE=" + audience, "TOKEN=" + token}
	client := &Front{URL: "http://" + front, client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	await := func(status int) (challenge string) {
		Eventually(t, 30*time.Second, fmt.Sprint("status ", status, " at Envoy"), func(ctx context.Context) error {
			r, err := client.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+token)
			if err == nil && r.Status != status {
				err = fmt.Errorf("status %d %s", r.Status, r.Body)
			}
			challenge = r.Header.Get("Www-Authenticate")
			return err
		})
		return challenge
	}
	for n, line := range commands {
		line = strings.Replace(line, program, fmt.Sprintf("%s--listen %s --upstream %s --grpc 127.0.0.1:%d --http 127.0.0.1:%d %s ", program, front, upstream.Addr, Port(t), httpPort, strings.Join(flags, " ")), 1)
		line = strings.Replace(line, ".tools/envoy/_bin/envoy", envoy, 1)
		name := fmt.Sprint("command-", n+1)
		if n == len(commands)-1 {
			await(http.StatusOK)
			require.Equal(t, http.StatusUnauthorized, client.Get(t).Status, "without a token")
		}
		background, ok := strings.CutSuffix(line, "&")
		switch {
		case ok:
			p, err := start(command{name: name, path: "/bin/bash", dir: dir, env: setting, args: []string{"-c", "exec " + background}})
			require.NoError(t, err)
			t.Cleanup(func() { p.attach(t); p.Stop(syscall.SIGTERM, 15*time.Second) })
		case n < 2: // as the user who has the clone and Go's caches
			cmd := exec.CommandContext(t.Context(), "/bin/bash", "-c", line)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), setting...)
			out, err := cmd.CombinedOutput()
			require.NoErrorf(t, err, "%s\n%s", line, out)
		default:
			p, err := start(command{name: name, path: "/bin/bash", dir: dir, env: setting, args: []string{"-c", line}})
			require.NoError(t, err)
			code, err := p.ExitCode(60 * time.Second)
			require.NoError(t, err)
			require.Zerof(t, code, "%s\n%s", line, p.Log())
		}
		if n == 1 { // the others run as another user, if this is root
			require.NoError(t, filepath.WalkDir(filepath.Join(dir, "my"), func(path string, _ fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				return give(path)
			}))
			config, err := os.ReadFile(filepath.Join(dir, "my", "envoy.yaml"))
			require.NoError(t, err)
			assert.NoError(t, ValidateEnvoy(t, string(config)))
		}
	}
	challenge := await(http.StatusUnauthorized)
	assert.Contains(t, challenge, `error="invalid_token"`)
	return client
}

var useIt = regexp.MustCompile("(?s)\n## Use it\n.*?\n```sh\n(.*?)```")

// quickStart returns the commands of README's first block of commands in the
// section "Use it".
func quickStart(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Root(), "README.md"))
	require.NoError(t, err)
	block := useIt.FindSubmatch(text)
	require.NotNil(t, block, "README has no block of commands in its section \"Use it\"")
	var commands []string
	for line := range strings.Lines(string(block[1])) {
		line, _, _ = strings.Cut(line, "  #")
		if line = strings.TrimSpace(line); line != "" {
			commands = append(commands, line)
		}
	}
	return commands
}

// copyRepository copies what a clone contains, with a link to the servers that
// `make tools` has fetched.
func copyRepository(to string) error {
	root := Root()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case name == ".git", name == ".tools", name == "bin", name == "dist", d.IsDir() && d.Name() == "node_modules":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, info.Mode().Perm())
	})
	if err != nil {
		return err
	}
	if tools, err := filepath.EvalSymlinks(filepath.Join(root, ".tools")); err == nil { // else the servers are in PATH
		return os.Symlink(tools, filepath.Join(to, ".tools"))
	}
	return nil
}
