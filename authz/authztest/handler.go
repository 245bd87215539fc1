package authztest

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"
)

// Fault describes how the issuer serves one of its documents wrongly. The zero
// Fault sends an empty body with status 200.
type Fault struct {
	Delay    time.Duration // wait before responding, until the client disconnects
	Hang     bool          // never respond; wait until the client disconnects
	Status   int           // 0 means 200
	Body     string        // sent instead of the document
	Genuine  bool          // send the document instead of Body
	Flood    int64         // number of bytes of white space to send after the body
	Redirect string        // respond with 302 and this location
}

// FailJWKS injects a fault into the key set; nil removes it.
func (i *Issuer) FailJWKS(f *Fault) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.jwksFault = f
}

// FailDiscovery injects a fault into the discovery document; nil removes it.
func (i *Issuer) FailDiscovery(f *Fault) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.metaFault = f
}

// Fetches returns how often the key set has been requested.
func (i *Issuer) Fetches() int64 { return i.jwksFetches.Load() }

// DiscoveryFetches returns how often the discovery document has been requested.
func (i *Issuer) DiscoveryFetches() int64 { return i.metaFetches.Load() }

// JWKSURL returns the URL of the key set on the issuer's own server.
func (i *Issuer) JWKSURL() string { return i.URL + "/jwks.json" }

// Handler serves /jwks.json and /.well-known/openid-configuration.
func (i *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jwks.json", func(w http.ResponseWriter, r *http.Request) {
		i.jwksFetches.Add(1)
		i.mu.Lock()
		f := i.jwksFault
		i.mu.Unlock()
		serve(w, r, f, i.JWKS())
	})
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		i.metaFetches.Add(1)
		i.mu.Lock()
		f := i.metaFault
		i.mu.Unlock()
		base := i.URL
		if base == "" {
			if base = "http://" + r.Host; strings.HasPrefix(i.Name, "https://") {
				base = "https://" + r.Host
			}
		}
		serve(w, r, f, encode(map[string]any{
			"issuer": i.Name, "jwks_uri": base + "/jwks.json",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": i.algorithms(),
		}))
	})
	return mux
}

func (i *Issuer) algorithms() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	algs := []string{}
	for _, k := range i.keys {
		algs = append(algs, k.Alg)
	}
	return algs
}

func serve(w http.ResponseWriter, r *http.Request, f *Fault, document []byte) {
	w.Header().Set("Content-Type", "application/json")
	if f == nil {
		_, _ = w.Write(document)
		return
	}
	var timer <-chan time.Time
	if f.Delay > 0 {
		timer = time.After(f.Delay)
	}
	if f.Hang || timer != nil {
		select {
		case <-timer: // nil with Hang alone: never
		case <-r.Context().Done():
			return
		}
	}
	if f.Redirect != "" {
		http.Redirect(w, r, f.Redirect, http.StatusFound)
		return
	}
	if f.Status != 0 {
		w.WriteHeader(f.Status)
	}
	if f.Genuine {
		_, _ = w.Write(document)
	} else {
		_, _ = w.Write([]byte(f.Body))
	}
	flood(w, f.Flood)
}

func flood(w http.ResponseWriter, n int64) {
	chunk := []byte(strings.Repeat(" ", 64<<10))
	for n > 0 {
		c := chunk[:min(n, int64(len(chunk)))]
		if _, err := w.Write(c); err != nil {
			return
		}
		n -= int64(len(c))
	}
}

// String names the issuer in test output.
func (i *Issuer) String() string {
	return "issuer " + strconv.Quote(i.Name)
}

// Transport serves requests to any host from Handler in memory, without a
// network: for tests that control time.
func (i *Issuer) Transport() http.RoundTripper { return inMemory{i.Handler()} }

type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	m.ServeHTTP(rec, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}
