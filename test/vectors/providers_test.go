package vectors

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/envoy/starter"
)

// shapes are tokens as one provider documents them.
type shapes struct {
	Source     string `json:"source"`
	Unverified string `json:"unverified"` // what the source does not show; empty: nothing
	// Init are the flags with which init is called, what the provider's discovery
	// document has besides, and the tokens that are judged otherwise than by the
	// page's configuration. nil: init does not know the provider.
	Init *struct {
		Issuer    string            `json:"issuer"`
		Audiences []string          `json:"audiences"`
		Discovery map[string]any    `json:"discovery"`
		Expect    map[string]string `json:"expect"`
	} `json:"init"`
	JWK    map[string]any `json:"jwk"` // members of the signing key's JWK; null: without it
	Tokens []struct {
		Name   string         `json:"name"`
		Expect string         `json:"expect"` // the decision's reason
		Header map[string]any `json:"header"`
		Claims map[string]any `json:"claims"` // "@+300" is a time, in seconds from now
	} `json:"tokens"`
}

// providerBlocks are the sections of docs/identity-providers.md that have a
// configuration, and the files of their shapes.
var providerBlocks = map[string]string{
	"Keycloak": "keycloak", "Auth0": "auth0", "Okta": "okta", "Microsoft Entra": "entra", "Amazon Cognito": "cognito", "Google": "google",
	"Kubernetes": "kubernetes", "authentik": "authentik", "Dex": "dex", "Zitadel": "zitadel", "GitHub Actions": "github-actions", "AD FS": "adfs", "SPIFFE": "spiffe", "UAA and XSUAA": "uaa",
}

var (
	section   = regexp.MustCompile(`(?m)^## (.+)$`)
	yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
)

// Each configuration of docs/identity-providers.md loads, and judges the tokens
// of its provider as the page says, while the provider publishes two keys.
func TestIdentityProviders(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "identity-providers.md"))
	require.NoError(t, err)
	files, err := filepath.Glob("testdata/providers/*.json")
	require.NoError(t, err)
	assert.Len(t, files, len(providerBlocks), "every file belongs to a section")
	tried := 0
	at := section.FindAllStringSubmatchIndex(string(page), -1)
	for i, m := range at {
		title, end := string(page[m[2]:m[3]]), len(page)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		block := yamlBlock.FindSubmatch(page[m[1]:end])
		if block == nil {
			continue
		}
		tried++
		require.Contains(t, providerBlocks, title, "the section has no shapes")
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			s := readShapes(t, providerBlocks[title])
			reasons := judgeShapes(t, block[1], s, nil)
			assert.True(t, reasons["allowed"] && len(reasons) > 1, "there are tokens that pass, and tokens that do not")
		})
	}
	assert.Equal(t, len(providerBlocks), tried, "every provider has a section with a block")
}

func readShapes(t *testing.T, name string) (s shapes) {
	t.Helper()
	file := filepath.Join("testdata", "providers", name+".json")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &s), file)
	require.NotEmpty(t, s.Source, "where the shapes are documented")
	return s
}

// The configuration that init writes for a provider judges its tokens as the page's
// does. Where a rule has to name the callers, nobody passes before it is edited.
func TestInitKnowsProviders(t *testing.T) {
	t.Parallel()
	known := 0
	for title, name := range providerBlocks {
		s := readShapes(t, name)
		if s.Init == nil {
			continue
		}
		known++
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			plan, err := starter.Make(starter.Options{
				Metadata: &issuer.Metadata{From: s.Init.Issuer, OpenID: true, JWKS: s.Init.Issuer + "/keys", Members: s.Init.Discovery}, Issuer: s.Init.Issuer, Audiences: s.Init.Audiences,
				For: starter.Envoy, Dir: "/my", Listen: "127.0.0.1:1", GRPC: "127.0.0.1:2", HTTP: "127.0.0.1:3", Upstream: "127.0.0.1:4",
			})
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(title, plan.Provider), "%s is taken for %s", title, plan.Provider)
			judgeShapes(t, plan.Files[0].Text, s, s.Init.Expect)
		})
	}
	require.Greater(t, known, 10)
}

// judgeShapes has the configuration judge the tokens, and returns the reasons that
// occurred. otherwise are expectations that differ from those of the shapes.
func judgeShapes(t *testing.T, config []byte, s shapes, otherwise map[string]string) map[string]bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, config, 0o600))
	settings, err := sidecar.Load(path, nil)
	require.NoError(t, err)

	header := s.Tokens[0].Header
	alg, _ := header["alg"].(string)
	kid, _ := header["kid"].(string)
	key := authztest.NewKey(alg).Named(kid)
	for name, v := range s.JWK {
		key = key.With(name, v)
	}
	next := authztest.NewKey(alg)
	if use, ok := s.JWK["use"]; ok {
		next = next.With("use", use)
	}
	if _, ok := s.JWK["x5t"]; ok {
		next = next.With("x5t", "another")
	}
	keys := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(keys, authztest.KeySet(key, next), 0o600))
	for i := range settings.Issuers {
		c := &settings.Issuers[i]
		c.JWKS, c.Config, c.BearerTokenFile = keys, fetch.Config{}, ""
	}
	v, err := issuer.NewVerifier(settings.Issuers, issuer.VerifierOptions{Clock: stopped(0), MaxTokenTTL: settings.Revocation.MaxTokenTTL, Limits: settings.Limits})
	require.NoError(t, err)
	t.Cleanup(v.Close)
	require.NoError(t, v.Refresh(t.Context()))
	require.Equal(t, 2, v.Status()[0].Keys, "%v", v.Status()[0].Why)
	rules, err := settings.OfflinePolicy()
	require.NoError(t, err)
	a := authz.NewAuthorizer(v, nil, authz.NewChain(nil, clean{}), rules, stopped(0))

	reasons := map[string]bool{}
	for _, token := range s.Tokens {
		head, err := json.Marshal(token.Header)
		require.NoError(t, err)
		body, err := json.Marshal(atTimes(t, token.Claims))
		require.NoError(t, err)
		input := authztest.Base64URL(head) + "." + authztest.Base64URL(body)
		raw := input + "." + authztest.Base64URL(key.Sign(alg, []byte(input)))
		d := a.Authorize(t.Context(), &authz.Request{Method: "GET", Path: "/", Host: "api.shop.example", Scheme: "https",
			Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + raw}}})
		assert.Equal(t, cmp.Or(otherwise[token.Name], token.Expect), d.Reason.String(), "%s: %s", token.Name, d.Detail)
		reasons[d.Reason.String()] = true
	}
	return reasons
}

// atTimes replaces "@+300" by the time 300 seconds from now.
func atTimes(t *testing.T, claims map[string]any) map[string]any {
	t.Helper()
	out := map[string]any{}
	for name, v := range claims {
		out[name] = v
		if text, ok := v.(string); ok && strings.HasPrefix(text, "@") {
			seconds, err := strconv.Atoi(text[1:])
			require.NoError(t, err, text)
			out[name] = now + seconds
		}
		if nested, ok := v.(map[string]any); ok {
			out[name] = atTimes(t, nested)
		}
	}
	return out
}
