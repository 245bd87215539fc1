package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"jwtbouncer/authz/authztest"
)

const (
	demoSubject   = "alice"
	tokenLifetime = time.Hour
)

// newIssuer returns the demo issuer, whose name is url. It serves its keys at
// /jwks.json, and at /token a token for every caller. Query parameters: sub
// (default alice), scope, format=json for {"token","jti"}.
func newIssuer(url string) http.Handler {
	issuer := authztest.NewIssuer(authztest.Named(url), authztest.Offline())
	mux := http.NewServeMux()
	mux.Handle("/", issuer.Handler())
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		jti := fmt.Sprintf("demo-%d", time.Now().UnixNano())
		claims := map[string]any{"sub": demoSubject, "aud": "demo", "jti": jti, "sid": "session-" + jti}
		if sub := r.FormValue("sub"); sub != "" {
			claims["sub"] = sub
		}
		if scope := r.FormValue("scope"); scope != "" {
			claims["scope"] = scope
		}
		token := issuer.Mint(claims, authztest.Lifetime(tokenLifetime))
		w.Header().Set("Cache-Control", "no-store")
		if r.FormValue("format") == "json" {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]string{"token": token, "jti": jti})
			return
		}
		_, _ = fmt.Fprint(w, token)
	})
	return mux
}
