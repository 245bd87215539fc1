package httpapi

import (
	_ "embed"
	"net/http"
	"sync"

	"github.com/goccy/go-yaml"
)

//go:embed openapi.yaml
var openAPIText []byte

// openAPI is the description of this port as JSON. That it agrees with what is
// really served is a matter of the tests.
var openAPI = sync.OnceValues(func() ([]byte, error) { return yaml.YAMLToJSON(openAPIText) })

func (a *api) getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	document, err := openAPI()
	if err != nil {
		fail(http.StatusInternalServerError, "the description is damaged").write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(document)
}
