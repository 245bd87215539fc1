package doctor

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"jwtbouncer/envoy/sidecar"
)

// Sections are the parts of an examination, by name.
var Sections = []string{"files", "issuers", "streams", "store", "redis", "envoy"}

// Examination says what to examine.
type Examination struct {
	Only     []string // sections; empty: all
	File     string   // of the configuration; empty: none
	Settings sidecar.Settings
	LoadErr  error // of the settings; the proxy is examined nevertheless

	Envoy    func(context.Context) ([]byte, error) // the proxy's configuration; nil: none is given
	EnvoyURL string                                // where that comes from
	Cluster  string                                // of the sidecar in Envoy; empty: found out
}

// Run examines everything at the same time, so that one server that does not
// answer delays nothing but its own result, until ctx ends.
func (x *Examination) Run(ctx context.Context, r *Report) {
	sections := map[string]func(*Report){
		"files": func(r *Report) {
			r.Configuration(x.File, x.Settings, x.LoadErr)
			if x.LoadErr == nil {
				r.Files(x.Settings)
			}
		},
		"envoy": func(r *Report) { x.envoy(ctx, r) },
	}
	if x.LoadErr == nil {
		sections["issuers"] = func(r *Report) { r.Issuers(ctx, x.Settings) }
		sections["streams"] = func(r *Report) { r.Streams(ctx, x.Settings) }
		sections["store"] = func(r *Report) { r.Store(ctx, x.Settings) }
		sections["redis"] = func(r *Report) { r.Redis(ctx, x.Settings) }
	}
	parts := make([]Report, len(Sections))
	var wg sync.WaitGroup
	for i, name := range Sections {
		if f := sections[name]; f != nil && (len(x.Only) == 0 || slices.Contains(x.Only, name)) {
			parts[i].accept = r.accept
			wg.Go(func() { f(&parts[i]) })
		}
	}
	wg.Wait()
	for i := range parts {
		r.join(&parts[i])
	}
}

func (x *Examination) envoy(ctx context.Context, r *Report) {
	if x.Envoy == nil {
		r.unknown("envoy.config", "", "no configuration is given: pass --envoy-admin or --envoy-config-dump")
		return
	}
	text, err := x.Envoy(ctx)
	if err != nil {
		r.find(Failure, "envoy.config", x.EnvoyURL, "the configuration cannot be read: %v", err)
		return
	}
	settings := x.Settings
	if x.LoadErr != nil {
		settings = sidecar.Defaults()
	}
	need := Needs(settings)
	need.Cluster = cmp.Or(x.Cluster, need.Cluster)
	r.Proxy(text, need)
}

// join adds the results of part.
func (r *Report) join(part *Report) {
	r.results = append(r.results, part.results...)
	for id, places := range part.passed {
		for _, p := range places {
			r.pass(id, p)
		}
	}
}
