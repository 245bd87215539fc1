package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"jwtbouncer/authz"
	"jwtbouncer/authz/sharedsignals"
)

// Revoker is the write path.
type Revoker interface {
	// Revoke stores the revocations, all or none, as authz.Revoker does.
	Revoke(ctx context.Context, revocations []authz.Revocation) (authz.Receipt, error)
}

var _ Revoker = (*authz.Revoker)(nil)

// Options are the parameters of New. Revoker, Lister, Gatherer, Registry,
// Logger and Clock are required.
type Options struct {
	Config  Config
	Listen  string // listen.http: decides whether a token is required
	Name    string // of this process among others, for people; "": none is shown
	Issuers authz.Issuers
	Revoker Revoker
	Lister  authz.Lister
	// MaxTokenTTL is revocation.max_token_ttl; 0: 24h.
	MaxTokenTTL time.Duration
	Resource    *Resource // nil: no metadata of the protected resource is served
	// Conditions returns the state of each part; nil: there are none. It must not
	// block.
	Conditions func() []Condition
	Draining   <-chan struct{} // closed when the process begins to stop; nil: never
	Gatherer   prometheus.Gatherer
	Registry   prometheus.Registerer
	Logger     *slog.Logger
	Clock      authz.Clock
}

// The sources of revocations, as metrics and the audit log name them. Every
// endpoint belongs to one.
const (
	SourceAPI      = "api"
	SourceHealth   = "health"
	SourcePage     = "page"
	SourceOAuth    = "rfc7009"
	SourceLogout   = "backchannel_logout"
	SourceEvents   = sharedsignals.Source
	SourceKeycloak = "keycloak"
	SourceGlobal   = "global_token_revocation"
)

// Access says who may call an endpoint.
type Access uint8

// The zero Access admits holders of the API's token only.
const (
	AccessToken  Access = iota // the API's token, or (on loopback without a token file) any process on this machine
	AccessCaller               // the handler authenticates the caller; requests from other sites are refused
	AccessOpen                 // anyone: the response is public, or the message authenticates itself
)

// Endpoint is one method of one path.
type Endpoint struct {
	Method, Path string
	Source       string // label of its metrics
	Access       Access
	Serve        http.HandlerFunc
}

// API is the handler of the HTTP port. It routes by exact path, to its own
// endpoints and to those that other packages add with Handle.
type API struct {
	o         Options
	metrics   *metrics
	writer    *Writer
	audits    *slog.Logger                   // of the audit log, which is complete; Options.Logger limits repeated lines
	tokens    *TokenFile                     // nil: no token is required
	endpoints map[string]map[string]Endpoint // by path and method
	// origin refuses what a browser sends for another site: a loopback API without
	// a token would otherwise be open to every web page.
	origin *http.CrossOriginProtection
}

// validate reports every invalid value and every missing part of o.
func (o *Options) validate(report authz.Report) {
	o.Config.Validate(func(path, format string, args ...any) { report("api."+path, format, args...) })
	o.Config.ValidateListen(o.Listen, report)
	o.Config.ValidateIssuers(o.Issuers, report)
	for name, missing := range map[string]bool{
		"Revoker": o.Revoker == nil, "Lister": o.Lister == nil, "Gatherer": o.Gatherer == nil,
		"Registry": o.Registry == nil, "Logger": o.Logger == nil, "Clock": o.Clock == nil,
	} {
		if missing {
			report("httpapi.Options."+name, "is required")
		}
	}
}

// New returns the handler of the HTTP port. It starts nothing. An invalid
// configuration, or an unusable file that it names, is an error.
func New(o Options) (*API, error) {
	if err := authz.ValidationErrors("", o.validate); err != nil {
		return nil, err
	}
	o.Config = o.Config.withDefaults()
	o.MaxTokenTTL = cmp.Or(o.MaxTokenTTL, 24*time.Hour)
	o.Gatherer = &sharedGatherer{gatherer: o.Gatherer, clock: o.Clock}
	audits := o.Logger
	o.Logger = slog.New(newLogLimiter(o.Logger.Handler()))
	a := &API{o: o, audits: audits, endpoints: map[string]map[string]Endpoint{}, origin: http.NewCrossOriginProtection()}
	var err error
	if o.Config.TokenFile != "" {
		if a.tokens, err = OpenTokenFile(o.Config.TokenFile); err != nil {
			return nil, fmt.Errorf("api.token_file: %w", err)
		}
	}
	if a.metrics, err = newMetrics(o.Registry); err != nil {
		return nil, err
	}
	a.writer, err = NewWriter(WriterOptions{Issuers: o.Issuers, Revoker: o.Revoker, Timeout: o.Config.WriteTimeout, Registry: o.Registry, Logger: audits, Clock: o.Clock})
	if err != nil {
		return nil, err
	}
	scrape := promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{
		ErrorLog:           slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
		DisableCompression: true, // it would cost as much as gathering, for each caller
	})
	a.Handle(
		Endpoint{"GET", "/openapi.json", SourceHealth, AccessOpen, a.getOpenAPI},
		Endpoint{"GET", "/livez", SourceHealth, AccessOpen, a.livez},
		Endpoint{"GET", "/readyz", SourceHealth, AccessOpen, a.readyz},
		Endpoint{"GET", "/metrics", SourceHealth, AccessOpen, scrape.ServeHTTP},
		Endpoint{"POST", "/v1/revocations", SourceAPI, AccessToken, a.postRevocations},
		Endpoint{"GET", "/v1/revocations", SourceAPI, AccessToken, a.getRevocations},
	)
	if o.Resource != nil {
		a.Handle(Endpoint{"GET", o.Resource.Path, SourceHealth, AccessOpen, o.Resource.serve})
	}
	return a, nil
}

// Options returns the options that New was given, with the defaults of the
// configuration filled in. Its Logger leaves out lines that repeat too often, and
// its Gatherer is up to a second behind.
func (a *API) Options() Options { return a.o }

// AuditLog returns the logger of the audit log, which leaves no line out. Only
// what authenticated callers do belongs there.
func (a *API) AuditLog() *slog.Logger { return a.audits }

// Writer returns the write path, for what requests revocations by another way than
// an endpoint.
func (a *API) Writer() *Writer { return a.writer }

// Revoke is Writer.Revoke for an endpoint.
func (a *API) Revoke(ctx context.Context, source, actor string, requests []authz.RevocationRequest) (authz.Receipt, *Problem) {
	rec, err := a.writer.Revoke(ctx, source, actor, requests)
	return rec, ProblemOf(err)
}

// Store is Writer.Store for an endpoint.
func (a *API) Store(ctx context.Context, source string, revocations []authz.Revocation) (authz.Receipt, *Problem) {
	rec, err := a.writer.Store(ctx, source, revocations)
	return rec, ProblemOf(err)
}

// Handle adds endpoints. It must not be called once requests are served.
func (a *API) Handle(endpoints ...Endpoint) {
	for _, e := range endpoints {
		if a.endpoints[e.Path] == nil {
			a.endpoints[e.Path] = map[string]Endpoint{}
		}
		a.endpoints[e.Path][e.Method] = e
	}
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	methods := a.endpoints[r.URL.Path]
	if methods == nil {
		Fail(http.StatusNotFound, "no such resource").Write(w)
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	e, ok := methods[method]
	if !ok {
		have := slices.Collect(maps.Keys(methods))
		if _, ok := methods[http.MethodGet]; ok {
			have = append(have, http.MethodHead)
		}
		slices.Sort(have)
		allowed := strings.Join(have, ", ")
		h.Set("Allow", allowed)
		Fail(http.StatusMethodNotAllowed, "allowed: "+allowed).Write(w)
		return
	}
	a.metrics.measure(e, w, func(w http.ResponseWriter) {
		defer a.recover(w, r)
		var p *Problem
		if e.Access != AccessOpen && a.origin.Check(r) != nil {
			p = Fail(http.StatusForbidden, "requests from other sites are refused")
		} else if e.Access == AccessToken {
			r, p = a.authenticate(w, r)
		}
		if p != nil {
			p.Write(w)
			return
		}
		e.Serve(w, withOrigin(r))
	})
}

func (a *API) recover(w http.ResponseWriter, r *http.Request) {
	if p := recover(); p != nil {
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		a.o.Logger.ErrorContext(r.Context(), "panic in an HTTP handler", "path", r.URL.Path, "type", fmt.Sprintf("%T", p))
		Fail(http.StatusInternalServerError, "internal error; it is not known what was done").Write(w)
	}
}
