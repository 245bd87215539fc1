package httpapi

import "net/http"

// Resource serves the metadata of the protected resource (RFC 9728), which tell
// clients where to get tokens.
type Resource struct {
	Path     string                 // below /.well-known/
	Document func() ([]byte, error) // returns the current document, JSON
}

func (s *Resource) serve(w http.ResponseWriter, _ *http.Request) {
	doc, err := s.Document()
	if err != nil {
		Fail(http.StatusInternalServerError, "the document cannot be generated").Write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.Header().Set("Access-Control-Allow-Origin", "*") // it is public, and clients in browsers read it, too
	_, _ = w.Write(doc)                                // an error means that the caller is gone
}
