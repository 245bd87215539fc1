package main

import (
	"encoding/json"
	"net/http"
	"strings"
)

// upstream returns the protected service. It answers with the headers that reached
// it, which shows what the sidecar added and removed. Credentials are reduced to
// their scheme.
func upstream() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers := map[string]string{}
		for name, values := range r.Header {
			headers[strings.ToLower(name)] = strings.Join(values, ", ")
		}
		if a, ok := headers["authorization"]; ok {
			scheme, _, _ := strings.Cut(a, " ")
			headers["authorization"] = scheme + " …"
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(map[string]any{"method": r.Method, "path": r.URL.RequestURI(), "headers": headers})
	})
}
