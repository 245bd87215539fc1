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
var openAPI = sync.OnceValues(func() ([]byte, error) { return yaml.YAMLToJSON(openAPIText) })

func (a *API) getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	document, err := openAPI()
	if err != nil {
		Fail(http.StatusInternalServerError, "the description cannot be read").Write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(document)
}
