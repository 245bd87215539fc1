package httpapi_test

import (
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/authz/sharedsignals"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func apiDoc(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/api.md")
	require.NoError(t, err)
	return string(text)
}

var fenced = regexp.MustCompile("(?s)```sh\n(.*?)```")

// Every command of docs/api.md, run in sequence, gets the status in the comment
// that follows it.
func TestDocsCommands(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	close(draining) // so that wait=enforced does not wait
	d := httpapitest.NewReceivers(t, func(o *httpapitest.Setup) {
		o.Config.TokenFile = httpapitest.SecretFile(t, httpapitest.APIToken)
		o.Config.Clients = []httpapi.ClientConfig{{ID: "shop", SecretFile: httpapitest.SecretFile(t, "a-client-secret-of-16")}}
		o.Config.Keycloak.Issuer = httpapitest.IssuerA
		o.Issuers.Verified = []string{httpapitest.IssuerA}
		o.Draining = draining
	})
	variables := strings.NewReplacer(
		"$API_TOKEN", httpapitest.APIToken, "$ACCESS_TOKEN", d.A.Mint(nil), "$LOGOUT_TOKEN", d.LogoutToken(nil), "$SECURITY_EVENT", d.EventToken(nil), "$LOGOUT_JWT", d.GlobalJWT(nil),
		"$KEYCLOAK_NOT_BEFORE", d.AdminAction(httpapitest.Claims{"action": "PUSH_NOT_BEFORE", "notBefore": httpapitest.Ago(time.Minute)}), "$KEYCLOAK_LOGOUT", d.AdminAction(nil),
		"$KEYCLOAK_TEST", d.AdminAction(httpapitest.Claims{"action": "TEST_AVAILABILITY"}))
	visited := map[string]bool{}
	for _, block := range fenced.FindAllStringSubmatch(apiDoc(t), -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
			command, want, ok := strings.Cut(strings.TrimSpace(line), " # ")
			require.True(t, ok, "no expected status: %s", line)
			status, err := strconv.Atoi(want)
			require.NoError(t, err, line)
			method, target, body, header := curl(t, words(t, command), variables)
			if target == "/readyz" {
				status = 503 // draining here
			}
			w := d.Do(method, target, body, header...)
			assert.Equal(t, status, w.Code, "%s\n%s", command, w.Body)
			path, _, _ := strings.Cut(target, "?")
			visited[path] = true
		}
	}
	paths, _ := d.Document().At("paths")
	for path := range paths.(map[string]any) {
		assert.True(t, visited[path], "docs/api.md has no command for %s", path)
	}
}

// words splits a command as a shell does, to the extent that the page needs.
func words(t *testing.T, s string) []string {
	t.Helper()
	var out []string
	var word strings.Builder
	quote, in := rune(0), false
	for i, r := range s {
		switch {
		case quote == '"' && r == '\\', quote == '"' && i > 0 && s[i-1] == '\\':
			if r == '"' {
				word.WriteRune(r)
			}
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, in = r, true
		case quote == 0 && r == ' ':
			if in {
				out = append(out, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	require.Zero(t, quote, "open quote: %s", s)
	if in {
		out = append(out, word.String())
	}
	return out
}

// curl understands only the options that the page uses.
func curl(t *testing.T, args []string, variables *strings.Replacer) (method, target, body string, header []string) {
	t.Helper()
	require.Equal(t, "curl", args[0])
	method = "GET"
	for i := 1; i < len(args); i++ {
		next := func() string { i++; return variables.Replace(args[i]) }
		switch arg := args[i]; arg {
		case "-sS":
		case "-H":
			name, value, ok := strings.Cut(next(), ": ")
			require.True(t, ok)
			header = append(header, name, value)
		case "-d", "--data-binary":
			method, body = "POST", next()
		case "--data-urlencode":
			name, value, _ := strings.Cut(next(), "=")
			method, body = "POST", httpapitest.FormBody(name, value)
			header = append(header, "Content-Type", httpapitest.FormType)
		case "-u":
			id, secret, _ := strings.Cut(next(), ":")
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.SetBasicAuth(id, secret)
			header = append(header, "Authorization", r.Header.Get("Authorization"))
		default:
			var ok bool
			target, ok = strings.CutPrefix(arg, "http://127.0.0.1:9192")
			require.True(t, ok, "unknown option %s", arg)
		}
	}
	return method, target, body, header
}

// docs/api.md names every setting, member and metric, and its example
// configuration is valid.
func TestDocsComplete(t *testing.T) {
	t.Parallel()
	text := apiDoc(t)
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(text)
	require.NotNil(t, block)
	stanza := block[1]
	file := struct {
		API httpapi.Config `yaml:"api"`
	}{httpapi.DefaultConfig()}
	require.NoError(t, yaml.NewDecoder(strings.NewReader(stanza), yaml.DisallowUnknownField()).Decode(&file))
	file.API.Validate(func(path, format string, args ...any) { t.Errorf("%s: "+format, append([]any{path}, args...)...) })
	for _, of := range []reflect.Type{reflect.TypeFor[httpapi.Config](), reflect.TypeFor[httpapi.ClientConfig](), reflect.TypeFor[httpapi.LogoutConfig](), reflect.TypeFor[sharedsignals.Config](), reflect.TypeFor[httpapi.KeycloakConfig](), reflect.TypeFor[httpapi.GlobalConfig](), reflect.TypeFor[sharedsignals.Policy]()} {
		for i := range of.NumField() {
			assert.Contains(t, stanza, of.Field(i).Tag.Get("yaml")+":", "setting")
		}
	}
	d := httpapitest.NewReceivers(t, nil)
	kinds, _ := d.Document().At("components", "schemas", "RevocationRequest", "oneOf")
	for _, kind := range kinds.([]any) {
		for name := range kind.(map[string]any)["properties"].(map[string]any) {
			assert.Contains(t, text, "`"+name+"`", "member")
		}
	}
	families, err := d.Metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		assert.Contains(t, text, "`"+f.GetName()+"`", "metric")
	}
	for _, picture := range regexp.MustCompile(`\]\((images/[^)]+)\)`).FindAllStringSubmatch(text, -1) {
		_, err := os.Stat("../../docs/" + picture[1])
		assert.NoError(t, err)
	}
}
