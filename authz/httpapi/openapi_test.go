package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The document and the port have the same operations.
func TestOpenAPIRoutes(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	served := map[string]bool{}
	for _, e := range d.API.Endpoints() {
		if e.Source != httpapi.SourcePage {
			served[e.Method+" "+e.Path] = true
		}
	}
	documented := map[string]bool{}
	paths, _ := d.Document().At("paths")
	for path, item := range paths.(map[string]any) {
		for method := range item.(map[string]any) {
			documented[strings.ToUpper(method)+" "+path] = true
		}
	}
	assert.Equal(t, served, documented)

	w := d.Do("GET", "/openapi.json", "")
	require.Equal(t, 200, w.Code)
	assert.Contains(t, w.Body.String(), `"3.1.0"`)
}

// What the document's schema refuses, the decoder refuses as well.
func TestOpenAPIRefuses(t *testing.T) {
	t.Parallel()
	doc := httpapitest.New(t, nil).Document()
	const request = "/paths/~1v1~1revocations/post/requestBody/content/application~1json/schema"
	for _, body := range []string{`{"jti":7}`, `{"jtis":"x"}`, `[]`, `"x"`, `{"sub":""}`, `{"sub":"x","not_before":true}`, `{"sub":"x","not_before":1767323045000}`, `{"sub":"x","not_before":"tomorrow"}`} {
		assert.Error(t, doc.Check(request, []byte(body)), body)
		assert.Equal(t, 400, httpapitest.New(t, nil).Do("POST", "/v1/revocations", body).Code)
	}
}

// The conformance check can fail.
func TestConformCanFail(t *testing.T) {
	t.Parallel()
	doc := httpapitest.New(t, nil).Document()
	const problem = "/components/responses/Problem/content/application~1problem+json/schema"
	assert.Error(t, doc.Check(problem, []byte(`{"type":"about:blank","title":"x","status":400}`)))
	assert.NoError(t, doc.Check(problem, []byte(`{"type":"urn:jwt-bouncer:problem:invalid-request","title":"x","status":400}`)))
	assert.Error(t, doc.Check(problem, []byte(`{"type":"urn:jwt-bouncer:problem:invalid-request","title":"x","status":400,"more":1}`)))
	assert.Error(t, doc.Check(problem, []byte(`{"title":"x","status":400}`)))
}

// Every status that an operation can return is in the document, and every status
// in the document is returned: each operation is called in each state of the port
// that has a response of its own.
func TestOpenAPIStatuses(t *testing.T) {
	t.Parallel()
	bearer := []string{"Authorization", "Bearer " + httpapitest.APIToken}
	port := func(change func(*httpapitest.Setup)) *httpapitest.Receivers {
		return httpapitest.NewReceivers(t, func(o *httpapitest.Setup) {
			o.Config.TokenFile = httpapitest.SecretFile(t, httpapitest.APIToken)
			if change != nil {
				change(o)
			}
		})
	}
	normal, away, unknown := port(nil), port(nil), port(nil)
	away.Ledger.SetFail(fmt.Errorf("dial: %w", authz.ErrUnavailable))
	unknown.Ledger.SetFail(fmt.Errorf("commit: %w", authz.ErrOutcomeUnknown))
	faulty := port(func(o *httpapitest.Setup) {
		o.Verifier, o.Revoker, o.Lister = panics{}, panics{}, panics{}
		o.Conditions = func() []httpapi.Condition { panic("a fault") }
		o.Gatherer = prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("a fault") })
		o.Resource.Document = func() ([]byte, error) { return nil, errors.New("a fault") }
	})
	keyless := port(func(o *httpapitest.Setup) {
		o.Verifier = noKeys{}
		o.Conditions = func() []httpapi.Condition {
			return []httpapi.Condition{{Part: "keys", State: httpapi.StateNotReady, Age: -1}}
		}
	})
	bare := httpapitest.New(t, func(o *httpapitest.Setup) { o.Verifier = normal.Verifier })

	type call struct {
		on     *httpapitest.Bench
		target string
		body   string
		header []string
	}
	calls := map[string][]call{} // by operation
	// post adds the states of an endpoint that accepts messages. good returns a message
	// to a port, whose issuer signs it.
	post := func(path, kind, bad string, good func(*httpapitest.Receivers) string, header ...string) {
		header = append([]string{"Content-Type", kind}, header...)
		var all []call
		for _, d := range []*httpapitest.Receivers{normal, faulty, away, unknown, keyless} {
			all = append(all, call{d.Bench, path, good(d), header})
		}
		calls["POST "+path] = append(all,
			call{normal.Bench, path, bad, header},
			call{normal.Bench, path, strings.Repeat("x", 3<<20), header},
			call{normal.Bench, path, good(normal), append(header[2:], "Content-Type", "image/png")},
			call{normal.Bench, path, good(normal), append(header[:2:2], "Authorization", "Bearer no")},
			call{bare, path, good(normal), append(header[:2:2], "Host", "evil.example")})
	}
	form := httpapitest.FormBody
	post("/v1/revocations", "application/json", `{}`, func(*httpapitest.Receivers) string { return `{"jti":"x","iss":"` + httpapitest.IssuerA + `"}` }, bearer...)
	post("/oauth2/revoke", httpapitest.FormType, form("token", "x"), func(d *httpapitest.Receivers) string { return form("token", d.A.Mint(nil)) }, bearer...)
	const global = "/oauth2/global-token-revocation"
	subject := func(sub string) string {
		return `{"sub_id":{"format":"iss_sub","iss":"` + httpapitest.IssuerA + `","sub":"` + sub + `"}}`
	}
	post(global, "application/json", `{}`, func(*httpapitest.Receivers) string { return subject("bob") }, bearer...)
	calls["POST "+global] = append(calls["POST "+global],
		call{normal.Bench, global, subject(strings.Repeat("x", authz.MaxIdentifier+1)), append([]string{"Content-Type", "application/json"}, bearer...)},
		call{keyless.Bench, global, subject("bob"), []string{"Content-Type", "application/json", "Authorization", "Bearer " + keyless.GlobalJWT(nil)}})
	post("/oidc/backchannel-logout", httpapitest.FormType, form("x", "x"), func(d *httpapitest.Receivers) string { return form("logout_token", d.LogoutToken(nil)) })
	post("/ssf/events", httpapitest.EventType, "x", func(d *httpapitest.Receivers) string { return d.EventToken(nil) })
	for path, action := range map[string]string{"k_push_not_before": "PUSH_NOT_BEFORE", "k_logout": "LOGOUT", "k_test_available": "TEST_AVAILABILITY"} {
		post("/keycloak/"+path, "text/plain", "x", func(d *httpapitest.Receivers) string {
			return d.AdminAction(httpapitest.Claims{"action": action, "notBefore": httpapitest.Ago(0)})
		})
	}
	for _, path := range []string{"/v1/revocations", "/.well-known/oauth-protected-resource", "/livez", "/readyz", "/metrics", "/openapi.json"} {
		for _, on := range []*httpapitest.Bench{normal.Bench, faulty.Bench, away.Bench, keyless.Bench} {
			calls["GET "+path] = append(calls["GET "+path], call{on, path, "", bearer})
		}
	}
	calls["GET /v1/revocations"] = append(calls["GET /v1/revocations"],
		call{normal.Bench, "/v1/revocations?limit=0", "", bearer}, call{normal.Bench, "/v1/revocations", "", nil},
		call{bare, "/v1/revocations", "", []string{"Host", "evil.example"}})
	calls["GET /.well-known/oauth-protected-resource"] = append(calls["GET /.well-known/oauth-protected-resource"],
		call{bare, "/.well-known/oauth-protected-resource", "", nil})

	for _, query := range []string{"", "?state=" + httpapitest.VerifiedState, "?state=" + strings.Repeat("x", 2000)} {
		calls["GET /ssf/verification"] = append(calls["GET /ssf/verification"], call{normal.Bench, "/ssf/verification" + query, "", nil})
	}

	paths, _ := normal.Document().At("paths")
	for path, item := range paths.(map[string]any) {
		for method := range item.(map[string]any) {
			operation := strings.ToUpper(method) + " " + path
			returned := map[string]bool{}
			for _, c := range calls[operation] {
				returned[fmt.Sprint(c.on.Do(strings.ToUpper(method), c.target, c.body, c.header...).Code)] = true
			}
			documented, _ := normal.Document().At("paths", path, method, "responses")
			assert.Equal(t, slices.Sorted(maps.Keys(documented.(map[string]any))), slices.Sorted(maps.Keys(returned)), operation)
		}
	}
}

// panics has a fault in every method.
type panics struct{ nilLister }

func (panics) Revoke(context.Context, []authz.Revocation) (authz.Receipt, error) { panic("a fault") }
func (panics) Verify(context.Context, string) (*authz.Token, error)              { panic("a fault") }
func (panics) VerifySecurityEvent(context.Context, string, authz.SecurityEventRules) (*authz.Token, error) {
	panic("a fault")
}

// noKeys is a verifier that has fetched no keys yet.
type noKeys struct{}

func (noKeys) Verify(context.Context, string) (*authz.Token, error) {
	return nil, authz.Failuref(authz.ReasonKeysUnavailable, "no keys")
}

func (noKeys) VerifySecurityEvent(context.Context, string, authz.SecurityEventRules) (*authz.Token, error) {
	return nil, authz.Failuref(authz.ReasonKeysUnavailable, "no keys")
}

// Every type of problem has a section in docs/problems.md and a place in the OpenAPI
// document, and neither has another.
func TestProblemsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/problems.md")
	require.NoError(t, err)
	var anchors []string
	for _, m := range regexp.MustCompile(`(?m)^## (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		anchors = append(anchors, m[1])
	}
	slices.Sort(anchors)
	assert.Equal(t, httpapi.ProblemTypes(), anchors)

	enum, _ := httpapitest.New(t, nil).Document().At("components", "schemas", "Problem", "properties", "type", "enum")
	var documented []string
	for _, uri := range enum.([]any) {
		name, ok := strings.CutPrefix(uri.(string), "urn:jwt-bouncer:problem:")
		assert.True(t, ok, uri)
		documented = append(documented, name)
	}
	slices.Sort(documented)
	assert.Equal(t, httpapi.ProblemTypes(), documented)
	for status := 400; status < 600; status++ {
		if p := httpapi.Fail(status, ""); p.Title != "" {
			assert.Contains(t, httpapi.ProblemTypes(), strings.TrimPrefix(p.Type, "urn:jwt-bouncer:problem:"))
			assert.Contains(t, string(text), fmt.Sprintf("**%d %s.**", status, p.Title))
		}
	}
}
