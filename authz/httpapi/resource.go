package httpapi

import "net/http"

// Resource serves the metadata of what the sidecar protects (RFC 9728), so
// that clients find out where to get tokens.
type Resource struct {
	Path     string                 // below /.well-known/
	Document func() ([]byte, error) // as it is now; JSON
}

func (s *Resource) serve(w http.ResponseWriter, _ *http.Request) {
	doc, err := s.Document()
	if err != nil {
		fail(http.StatusInternalServerError, "the document cannot be made").write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.Header().Set("Access-Control-Allow-Origin", "*") // clients in browsers read it too, and it is public
	_, _ = w.Write(doc)                                // the caller is gone when this fails
}
