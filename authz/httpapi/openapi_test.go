package httpapi

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// document is openapi.yaml with its schemas compiled on demand.
type document struct {
	root any
	c    *jsonschema.Compiler

	mu      sync.Mutex
	schemas map[string]*jsonschema.Schema
}

var theDocument = sync.OnceValue(func() *document {
	text, err := openAPI()
	if err != nil {
		panic(err)
	}
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		panic(err)
	}
	d := &document{root: root, c: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	d.c.AssertFormat()
	if err := d.c.AddResource("openapi.json", root); err != nil {
		panic(err)
	}
	return d
})

// at follows a path of member names, and $ref on the way. It returns nil where
// there is nothing, and the JSON pointer of what it found.
func (d *document) at(names ...string) (any, string) {
	v, pointer := d.root, ""
	for _, name := range names {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, ""
		}
		v = m[name]
		pointer += "/" + strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
		if m, ok := v.(map[string]any); ok {
			if ref, ok := m["$ref"].(string); ok && !strings.Contains(ref, "schemas") {
				pointer = strings.TrimPrefix(ref, "#")
				v, _ = d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
			}
		}
	}
	return v, pointer
}

func (d *document) check(pointer string, text []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.schemas[pointer]
	if s == nil {
		var err error
		if s, err = d.c.Compile("openapi.json#" + pointer); err != nil {
			return err
		}
		d.schemas[pointer] = s
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// conform holds every answer that any test of this package gets to the
// document: status, media type, schema, and the request's schema on success.
func (b *bench) conform(r *http.Request, body string, w *recorder) {
	b.t.Helper()
	d := theDocument()
	method := strings.ToLower(r.Method)
	operation, at := d.at("paths", r.URL.Path, method)
	if operation == nil || w.Code == http.StatusInternalServerError || w.Code == http.StatusNotFound {
		return // pages, unknown resources, defects, and doors that are closed
	}
	where := fmt.Sprintf("%s %s → %d", r.Method, r.URL.Path, w.Code)
	response, pointer := d.at("paths", r.URL.Path, method, "responses", fmt.Sprint(w.Code))
	if !assert.NotNil(b.t, response, "%s is not in openapi.yaml", where) {
		return
	}
	content, _ := response.(map[string]any)["content"].(map[string]any)
	if content == nil {
		assert.Empty(b.t, w.Body.String(), where)
	} else {
		media, _, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
		require.NoError(b.t, err, where)
		assert.Contains(b.t, content, media, where)
		if strings.HasSuffix(media, "json") {
			assert.NoError(b.t, d.check(pointer+"/content/"+strings.ReplaceAll(media, "/", "~1")+"/schema", w.Body.Bytes()), where)
		}
	}
	if headers, _ := response.(map[string]any)["headers"].(map[string]any); headers != nil {
		for name := range headers {
			assert.NotEmpty(b.t, w.Header().Get(name), "%s: %s", where, name)
		}
	}
	if w.Code == http.StatusCreated {
		assert.NoError(b.t, d.check(at+"/requestBody/content/application~1json/schema", []byte(body)), "what was taken is in the document")
	}
}

// TestOpenAPIRoutes: the document and the port have the same operations.
func TestOpenAPIRoutes(t *testing.T) {
	t.Parallel()
	d := newDoors(t, nil)
	served := map[string]bool{}
	for _, e := range d.endpoints() {
		if e.door != doorPage {
			served[e.method+" "+e.path] = true
		}
	}
	documented := map[string]bool{}
	paths, _ := theDocument().at("paths")
	for path, item := range paths.(map[string]any) {
		for method := range item.(map[string]any) {
			documented[strings.ToUpper(method)+" "+path] = true
		}
	}
	assert.Equal(t, served, documented)

	w := d.do("GET", "/openapi.json", "")
	require.Equal(t, 200, w.Code)
	assert.Contains(t, w.Body.String(), `"3.1.0"`)
}

// TestOpenAPIRefuses: the document's schema is no looser than the parser.
func TestOpenAPIRefuses(t *testing.T) {
	t.Parallel()
	const order = "/paths/~1v1~1revocations/post/requestBody/content/application~1json/schema"
	for _, body := range []string{`{"jti":7}`, `{"jtis":"x"}`, `[]`, `"x"`, `{"sub":""}`, `{"sub":"x","not_before":true}`, `{"sub":"x","not_before":1767323045000}`, `{"sub":"x","not_before":"tomorrow"}`} {
		assert.Error(t, theDocument().check(order, []byte(body)), body)
		assert.Equal(t, 400, newBench(t, nil).do("POST", "/v1/revocations", body).Code)
	}
}

// TestConformCanFail tests the test.
func TestConformCanFail(t *testing.T) {
	t.Parallel()
	const problem = "/components/responses/Problem/content/application~1problem+json/schema"
	assert.NoError(t, theDocument().check(problem, []byte(`{"type":"about:blank","title":"x","status":400}`)))
	assert.Error(t, theDocument().check(problem, []byte(`{"type":"about:blank","title":"x","status":400,"more":1}`)))
	assert.Error(t, theDocument().check(problem, []byte(`{"title":"x","status":400}`)))
}
