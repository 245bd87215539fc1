package docs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/envoy"
	"jwtbouncer/test/harness"
)

func isShell(b block) bool { return b.language == "sh" }

var (
	// reason is the comment by which a block says that it is not run.
	reason = regexp.MustCompile(`^# The tests do not run this: it needs \S.*\.\n`)
	// outside are the commands that would reach out of the sandbox: to a cluster, a
	// registry, a service or the machine's packages.
	outside = regexp.MustCompile(`(?m)^\s*(?:sudo )?(docker|kubectl|helm|istioctl|egctl|git|gh|cosign|apt|apt-get|dpkg|dnf|rpm|brew|systemctl) `)
)

// isQuickStart: README's commands from a clone to a denied token. They leave an
// Envoy and a sidecar running, for which their own test is made.
func isQuickStart(b block) bool {
	return isShell(b) && b.page == "README.md" && strings.Contains(b.text, " init --issuer ")
}

func isException(b block) bool { return isShell(b) && reason.MatchString(b.text) }

func checkShellSyntax(t *testing.T, b block) error {
	if !outside.MatchString(b.text) {
		return errors.New("none of its commands needs what a test does not have: let the tests run it")
	}
	out, err := exec.CommandContext(t.Context(), "bash", "-n", "-c", b.text).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// runShell runs the commands of the block, one after the other, in an
// installation of its own: a real sidecar with its store, the page's
// configuration, an issuer, and the files that the pages speak of.
func runShell(t *testing.T, b block) error {
	s := newSandbox(t, b)
	ran := 0
	for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
		command, comment, _ := strings.Cut(strings.TrimSpace(line), " # ")
		command = strings.TrimSpace(command)
		if command == "" || strings.HasPrefix(command, "#") {
			continue
		}
		ran++
		if err := s.run(t, command, strings.TrimSpace(comment)); err != nil {
			return fmt.Errorf("%s\n%w", command, err)
		}
	}
	if ran == 0 {
		return errors.New("no command")
	}
	return nil
}

// sandbox is an installation that the commands of one block may change.
type sandbox struct {
	dir     string
	sidecar *harness.BouncerServer
	names   *strings.Replacer // names and places of the pages → those of the sandbox
	env     []string
}

var status = regexp.MustCompile(`^\d{3}$`)

// run runs one command. A comment of three digits is the status of the response
// that curl must get.
func (s *sandbox) run(t *testing.T, command, comment string) error {
	switch {
	case outside.MatchString(command):
		return errors.New(`begin the block with "# The tests do not run this: it needs …."`)
	case strings.HasPrefix(command, "make "):
		return s.bash(t, strings.Replace(command, "make ", "make -n -C "+harness.Root()+" ", 1), nil)
	case strings.HasSuffix(command, " serve"):
		// The sandbox's sidecar is this command, with this configuration.
		return s.sidecar.Ready(t.Context())
	case strings.HasPrefix(command, "curl "):
		var out strings.Builder
		if err := s.bash(t, command+" -o response -w '%{http_code}'", &out); err != nil {
			return err
		}
		got := out.String()
		want := "2xx"
		if status.MatchString(comment) {
			want = comment
		}
		if got != want && (want != "2xx" || !strings.HasPrefix(got, "2")) {
			body, _ := os.ReadFile(filepath.Join(s.dir, "response"))
			return fmt.Errorf("status %s, want %s: %s", got, want, body)
		}
		return nil
	default:
		return s.bash(t, command, nil)
	}
}

func (s *sandbox) bash(t *testing.T, command string, stdout *strings.Builder) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", s.names.Replace(command))
	cmd.Dir, cmd.Env = s.dir, s.env
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s%s", err, out.String(), errs.String())
	}
	if stdout != nil {
		stdout.WriteString(out.String())
	}
	return nil
}

func newSandbox(t *testing.T, b block) *sandbox {
	t.Helper()
	harness.NeedsProcess(t)
	for _, tool := range []string{"bash", "curl", "jq", "make"} {
		_, err := exec.LookPath(tool)
		require.NoError(t, err, "the commands of the documentation need %s (Debian: apt-get install %s)", tool, tool)
	}
	binary, err := harness.Binary(true)
	require.NoError(t, err)
	s := &sandbox{dir: harness.Dir(t)}
	iss := authztest.NewIssuer()
	t.Cleanup(iss.Close)

	store := "sqlite://" + s.dir + "/revocations.db"
	if strings.Contains(b.text, "--bridge") { // only PostgreSQL has bridges
		pg := harness.Postgres(t)
		pg.Exec(t, "create table revoked_tokens (jti text primary key, user_id text, expires_at timestamptz)")
		pg.Exec(t, "insert into revoked_tokens values ('the-jti', 'alice', now() + interval '1 hour')")
		store = pg.URL
	}
	replaced := []string{"https://issuer.example", iss.URL, "https://a.example", iss.URL, "https://sso.example/realms/shop", iss.URL, "https://keycloak.example/realms/shop", iss.URL,
		"sqlite:///var/lib/jwt-bouncer/revocations.db", store, "/etc/jwt-bouncer/", s.dir + "/"}
	text := pageConfiguration(b)
	if strings.Contains(text, "redis://127.0.0.1:6379") {
		replaced = append(replaced, "redis://127.0.0.1:6379/0", harness.Redis(t).URL)
	}
	harness.WriteFile(t, s.dir, "api-token", "operator a-token-of-the-tests-of-the-pages\n")
	harness.WriteFile(t, s.dir, "shop-secret", "a-client-secret-of-16\n")
	s.sidecar = harness.Bouncer(t, strings.NewReplacer(replaced...).Replace(text), harness.BouncerOptions{Plain: true})
	replaced = append(replaced, "http://127.0.0.1:9192", s.sidecar.HTTP)
	if strings.Contains(b.text, " doctor ") { // of the sidecar and the Envoy before it
		sample, err := envoy.SampleConfig(envoy.Sample{Listen: "127.0.0.1:0", Service: s.sidecar.GRPC, Upstream: "127.0.0.1:1"})
		require.NoError(t, err)
		harness.WriteFile(t, s.dir, "envoy.yaml", sample)
		replaced = append(replaced, "http://127.0.0.1:9901", "http://"+harness.Envoy(t, sample).Admin)
	}
	s.names = strings.NewReplacer(replaced...)

	// The names under which the pages know the configuration.
	config, err := os.ReadFile(s.sidecar.Config)
	require.NoError(t, err)
	for _, name := range []string{"jwt-bouncer.yaml", "FILE"} {
		harness.WriteFile(t, s.dir, name, string(config))
	}
	bin := filepath.Join(s.dir, "bin")
	require.NoError(t, os.Mkdir(bin, 0o755))
	require.NoError(t, os.Symlink(binary, filepath.Join(bin, "jwt-bouncer")))

	provider := httpapitest.Receivers{A: iss}
	inShop := func(action httpapitest.Claims) string {
		action["resource"] = "shop"
		return provider.AdminAction(action)
	}
	s.env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C", "TZ=UTC"}
	for name, value := range map[string]string{
		"API_TOKEN": "a-token-of-the-tests-of-the-pages", "ACCESS_TOKEN": iss.Mint(nil), "TOKEN": iss.Mint(nil),
		"LOGOUT_TOKEN": provider.LogoutToken(nil), "SECURITY_EVENT": provider.EventToken(nil), "LOGOUT_JWT": provider.GlobalJWT(nil),
		"KEYCLOAK_NOT_BEFORE": inShop(httpapitest.Claims{"action": "PUSH_NOT_BEFORE", "notBefore": httpapitest.Ago(time.Minute)}),
		"KEYCLOAK_LOGOUT":     inShop(httpapitest.Claims{}), "KEYCLOAK_TEST": inShop(httpapitest.Claims{"action": "TEST_AVAILABILITY"}),
	} {
		s.env = append(s.env, name+"="+value)
	}
	if strings.Contains(b.text, "export.jsonl") {
		require.NoError(t, s.bash(t, "jwt-bouncer --config FILE revoke --sub alice; jwt-bouncer --config FILE revocations export > export.jsonl; test -s export.jsonl", nil))
	}
	return s
}

// pageConfiguration returns the page's configuration without the stanzas that
// every sandbox has of its own.
func pageConfiguration(b block) string {
	var own []block
	for _, o := range b.siblings {
		if keys := topKeys(o); isConfiguration(o) && (slices.Contains(keys, "listen") || slices.Contains(keys, "api")) {
			own = append(own, o)
		}
	}
	stanzas := map[string]string{
		"issuers":  "issuers:\n  - {issuer: https://issuer.example, audiences: [api]}\n",
		"resource": "resource: {resource: https://api.example}\n",
		"store":    "store: sqlite:///var/lib/jwt-bouncer/revocations.db\n",
	}
	for _, o := range own {
		for _, text := range stanza.FindAllString(o.text, -1) {
			key, _, _ := strings.Cut(text, ":")
			stanzas[key] = text
		}
	}
	delete(stanzas, "listen") // the harness chooses the ports
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(stanzas)) {
		text.WriteString(stanzas[key])
	}
	return text.String()
}
