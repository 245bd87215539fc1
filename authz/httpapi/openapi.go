package httpapi

import (
	_ "embed"
	"net/http"
	"sync"

	"github.com/goccy/go-yaml"
)

//go:embed openapi.yaml
var openAPIText []byte

// openAPI is the description of this port as JSON. Tests hold it to the
// endpoints and their responses.
var openAPI = sync.OnceValue(func() []byte {
	document, err := yaml.YAMLToJSON(openAPIText)
	if err != nil {
		panic(err) // embedded: a programming error
	}
	return document
})

func (a *API) getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI())
}
