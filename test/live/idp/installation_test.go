package idp

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// installation is a sidecar with an Envoy in front of an upstream.
type installation struct {
	t       *testing.T
	sidecar *harness.BouncerServer
	front   *harness.Front
}

// install starts a sidecar with the configuration, without waiting until it is ready.
// The store is added to the configuration, unless it has one.
func install(t *testing.T, config string) *installation {
	t.Helper()
	if !strings.Contains(config, "\nstore:") {
		config += fmt.Sprintf("store: %q\n", "sqlite://"+filepath.Join(harness.Dir(t), "revocations.db"))
	}
	sidecar := harness.Bouncer(t, config, harness.BouncerOptions{NoWait: true})
	return &installation{t, sidecar, harness.NewFront(t, sidecar.GRPC, harness.Upstream(t).Addr)}
}

func (i *installation) awaitReady() {
	i.t.Helper()
	harness.Eventually(i.t, 60*time.Second, "the sidecar is ready", i.sidecar.Ready)
}

// allowed requires that a token passes now, with the subject in the header.
func (i *installation) allowed(what, token string) {
	i.t.Helper()
	r := i.front.Bearer(i.t, token)
	require.Equalf(i.t, 200, r.Status, "%s: %s", what, r.Header.Get("Www-Authenticate"))
}

// soon requires that a token gets a status within a minute.
func (i *installation) soon(what, token string, status int) {
	i.t.Helper()
	i.eventually(what, func() string { return token }, status)
}

// allowedAgain requires that a user who signs in is allowed within a minute. A
// revocation that names the user ends all tokens that were issued in its second.
func (i *installation) allowedAgain(what string, signIn func() string) {
	i.t.Helper()
	i.eventually(what, signIn, 200)
}

func (i *installation) eventually(what string, token func() string, status int) {
	i.t.Helper()
	harness.Eventually(i.t, time.Minute, what, func(ctx context.Context) error {
		r, err := i.front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+token())
		if err == nil && r.Status != status {
			err = fmt.Errorf("status %d %s", r.Status, r.Header.Get("Www-Authenticate"))
		}
		return err
	})
}

// rotated requires that the sidecar follows a rotation: a token of the new key
// passes, one of the old key while it is published, and no longer after another
// rotation that has removed it.
func (i *installation) rotated(old string, rotate func(), signIn func() string, remove func()) {
	i.t.Helper()
	i.allowed("signed with the first key", old)
	rotate()
	next := signIn()
	require.NotEqual(i.t, keyID(i.t, old), keyID(i.t, next), "the provider signs with another key")
	i.soon("the new key is accepted", next, 200)
	i.allowed("the first key is still published", old)
	remove()
	i.soon("signed with the newest key", signIn(), 200)
	i.soon("the first key is gone", old, 401)
}

// documented returns the first block of YAML below a heading of a page, with one
// name replaced by another.
func documented(t *testing.T, page, heading, name, by string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", page))
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	require.Truef(t, found, "%s has no section %q", page, heading)
	section, _, _ = strings.Cut(section, "\n## ")
	block := yamlBlock.FindStringSubmatch(section)
	require.NotNilf(t, block, "%s: section %q has no YAML", page, heading)
	require.Contains(t, block[1], name)
	return strings.ReplaceAll(block[1], name, by)
}

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")

// initialized returns the configuration that init writes for the issuer, without its
// listen stanza.
func initialized(t *testing.T, provider, issuer, audience, client string) string {
	t.Helper()
	dir := filepath.Join(harness.Dir(t), "my")
	r := harness.Run(t, "", "init", "--issuer", issuer, "--audience", audience, "--client", client, "--dir", dir)
	require.Zerof(t, r.Code, "%s%s", r.Stdout, r.Stderr)
	text, err := os.ReadFile(filepath.Join(dir, "jwt-bouncer.yaml"))
	require.NoError(t, err)
	require.Contains(t, string(text), "# jwt-bouncer for "+provider)
	_, rest, found := strings.Cut(string(text), "\nissuers:\n")
	require.True(t, found)
	store := regexp.MustCompile(`(?m)^store: .*$`)
	return store.ReplaceAllString("issuers:\n"+rest, fmt.Sprintf("store: %q", "sqlite://"+filepath.Join(harness.Dir(t), "revocations.db")))
}

// keyID returns the kid of a token.
func keyID(t *testing.T, token string) string {
	t.Helper()
	kid, _ := segment(t, token, 0)["kid"].(string)
	require.NotEmpty(t, kid)
	return kid
}

// segment returns a segment of a token, which it does not verify: 0 is the header, 1
// the claims.
func segment(t *testing.T, token string, n int) (members map[string]any) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[n])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &members))
	return members
}
