package httpapi_test

import (
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"strings"
	"testing"

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
	assert.NoError(t, doc.Check(problem, []byte(`{"type":"about:blank","title":"x","status":400}`)))
	assert.Error(t, doc.Check(problem, []byte(`{"type":"about:blank","title":"x","status":400,"more":1}`)))
	assert.Error(t, doc.Check(problem, []byte(`{"title":"x","status":400}`)))
}
