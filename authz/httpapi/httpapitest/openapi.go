package httpapitest

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Document is the OpenAPI document, with its schemas compiled on demand.
type Document struct {
	root any
	c    *jsonschema.Compiler

	mu      sync.Mutex
	schemas map[string]*jsonschema.Schema
}

var (
	loading sync.Mutex
	loaded  *Document
)

// Document returns the document that the API serves.
func (b *Bench) Document() *Document {
	b.t.Helper()
	loading.Lock()
	defer loading.Unlock()
	if loaded == nil {
		w := httptest.NewRecorder()
		b.API.ServeHTTP(w, Request("GET", "/openapi.json", ""))
		require.Equal(b.t, 200, w.Code)
		root, err := jsonschema.UnmarshalJSON(w.Body)
		require.NoError(b.t, err)
		d := &Document{root: root, c: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
		d.c.AssertFormat()
		require.NoError(b.t, d.c.AddResource("openapi.json", root))
		loaded = d
	}
	return loaded
}

// At follows a path of member names, and every $ref on the way. It returns the
// value, nil if there is none, and its JSON pointer.
func (d *Document) At(names ...string) (any, string) {
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
				v, _ = d.At(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
			}
		}
	}
	return v, pointer
}

// Check validates JSON text against the schema at pointer.
func (d *Document) Check(pointer string, text []byte) error {
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

// conform checks a response against the document: status, media type, headers
// and schema. On success it checks the body of the request, too.
func (b *Bench) conform(r *http.Request, body string, w *httptest.ResponseRecorder) {
	b.t.Helper()
	d := b.Document()
	method := strings.ToLower(r.Method)
	if r.Method == http.MethodHead {
		method = "get"
	}
	operation, at := d.At("paths", r.URL.Path, method)
	response, pointer := d.At("paths", r.URL.Path, method, "responses", fmt.Sprint(w.Code))
	switch {
	case w.Code == http.StatusMethodNotAllowed: // of operations that the document does not have
		response, pointer = d.At("components", "responses", "MethodNotAllowed")
	case operation == nil && w.Code == http.StatusNotFound:
		response, pointer = d.At("components", "responses", "NotFound")
	case operation == nil: // the page
		return
	}
	where := fmt.Sprintf("%s %s → %d", r.Method, r.URL.Path, w.Code)
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
			assert.NoError(b.t, d.Check(pointer+"/content/"+strings.ReplaceAll(media, "/", "~1")+"/schema", w.Body.Bytes()), where)
		}
	}
	if headers, _ := response.(map[string]any)["headers"].(map[string]any); headers != nil {
		for name := range headers {
			assert.NotEmpty(b.t, w.Header().Get(name), "%s: %s", where, name)
		}
	}
	if w.Code == http.StatusCreated {
		assert.NoError(b.t, d.Check(at+"/requestBody/content/application~1json/schema", []byte(body)), "an accepted body conforms to the document")
	}
}
