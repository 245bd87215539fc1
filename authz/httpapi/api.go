package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"jwtbouncer/authz"
)

// Revoker is the write path.
type Revoker interface {
	// Revoke stores the revocations, all or none, as authz.Revoker does.
	Revoke(ctx context.Context, revocations []authz.Revocation, wait authz.Wait) (authz.Receipt, error)
}

var _ Revoker = (*authz.Revoker)(nil)

// Part is something that must be well for the process to be ready.
type Part struct {
	Name  string       // short, lower case
	Ready func() error // nil: ready. Must not block
}

// Options are what New needs. Revoker, Lister, Gatherer, Registry, Logger and
// Clock are required.
type Options struct {
	Config  Config
	Listen  string   // listen.http: decides whether a token is required
	Issuers []string // those whose keys are configured, as tokens name them in "iss"
	// Introspected are the issuers that are asked about tokens, as revocations
	// of these tokens name them.
	Introspected []authz.IntrospectedIssuer
	Revoker      Revoker
	Lister       authz.Lister
	Verifier     Verifier        // nil: only the revocation resource is served, none of the doors that take tokens
	Resource     *Resource       // nil: no metadata of the protected resource is served
	Parts        []Part          // of /readyz
	Draining     <-chan struct{} // closed when the process begins to stop; nil: never
	Gatherer     prometheus.Gatherer
	Registry     prometheus.Registerer
	Logger       *slog.Logger
	Clock        authz.Clock
}

// The doors, as metrics and the audit log name them.
const (
	doorAPI      = "api"
	doorHealth   = "health"
	doorPage     = "page"
	doorOAuth    = "rfc7009"
	doorLogout   = "backchannel_logout"
	doorEvents   = "security_events"
	doorKeycloak = "keycloak"
)

type api struct {
	issuers       authz.Issuers
	revoker       Revoker
	lister        authz.Lister
	parts         []Part
	draining      <-chan struct{}
	log           *slog.Logger
	clock         authz.Clock
	metrics       *metrics
	tokens        *tokenFile // nil: no token is asked for
	hosts         []string
	commitTimeout time.Duration

	verifier Verifier
	clients  []oauthClient
	logout   LogoutConfig
	logouts  *recent
	events   EventsConfig
	pushed   *recent
	keycloak KeycloakConfig

	gatherer prometheus.Gatherer
	sessions *sessions
}

// access says who may call a route.
type access uint8

const (
	accessOpen   access = iota // anybody; what is said here is public, or the message authenticates itself
	accessToken                // the API's token, or (on loopback without a token) anybody on this machine
	accessClient               // the handler authenticates the caller
	accessPage                 // whoever is signed in at the page
)

type endpoint struct {
	method, path string
	door         string
	access       access
	serve        http.HandlerFunc
}

// New returns the handler of the HTTP port. It starts nothing; what is wrong
// with the configuration or with a file it names is an error.
func New(o Options) (http.Handler, error) {
	var faults []error
	fault := func(path, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
	}
	o.Config.Validate(func(path, format string, args ...any) { fault("api."+path, format, args...) })
	o.Config.ValidateListen(o.Listen, fault)
	issuers := authz.Issuers{Verified: slices.Clone(o.Issuers), Introspected: slices.Clone(o.Introspected)}
	o.Config.ValidateIssuers(o.Issuers, issuers.All(), fault)
	for name, missing := range map[string]bool{
		"Revoker": o.Revoker == nil, "Lister": o.Lister == nil, "Gatherer": o.Gatherer == nil,
		"Registry": o.Registry == nil, "Logger": o.Logger == nil, "Clock": o.Clock == nil,
	} {
		if missing {
			fault("httpapi.Options."+name, "is required")
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	a := &api{
		issuers: issuers, revoker: o.Revoker, lister: o.Lister, parts: o.Parts, draining: o.Draining,
		log: o.Logger, clock: o.Clock, hosts: o.Config.Hosts, commitTimeout: orDefault(o.Config.WriteTimeout, DefaultConfig().WriteTimeout),
	}
	a.gatherer = o.Gatherer
	var err error
	if o.Config.TokenFile != "" {
		if a.tokens, err = openTokenFile(o.Config.TokenFile); err != nil {
			return nil, fmt.Errorf("api.token_file: %w", err)
		}
	}
	if a.clients, err = openClients(o.Config.Clients); err != nil {
		return nil, err
	}
	if a.metrics, err = newMetrics(o.Registry); err != nil {
		return nil, err
	}
	scrape := promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{ErrorLog: promLog{o.Logger}})
	endpoints := a.messageEndpoints(o)
	if o.Config.Page {
		endpoints = append(endpoints, a.pageEndpoints()...)
	}
	if o.Resource != nil {
		endpoints = append(endpoints, endpoint{"GET", o.Resource.Path, doorHealth, accessOpen, o.Resource.serve})
	}
	return a.route(append(endpoints, []endpoint{
		{"GET", "/openapi.json", doorHealth, accessOpen, a.getOpenAPI},
		{"GET", "/livez", doorHealth, accessOpen, a.livez},
		{"GET", "/readyz", doorHealth, accessOpen, a.readyz},
		{"GET", "/metrics", doorHealth, accessOpen, scrape.ServeHTTP},
		{"POST", "/v1/revocations", doorAPI, accessToken, a.postRevocations},
		{"GET", "/v1/revocations", doorAPI, accessToken, a.getRevocations},
	}...)), nil
}

// messageEndpoints are the doors that take signed messages. Those that nobody
// configured do not exist.
func (a *api) messageEndpoints(o Options) []endpoint {
	if o.Verifier == nil {
		return nil
	}
	a.verifier = o.Verifier
	all := []endpoint{{"POST", "/oauth2/revoke", doorOAuth, accessClient, a.oauthRevoke}}
	if a.logout = o.Config.Logout; len(a.logout.Audiences) > 0 {
		a.logout.MaxAge = orDefault(a.logout.MaxAge, DefaultConfig().Logout.MaxAge)
		a.logouts = newRecent(2 * a.logout.MaxAge)
		all = append(all, endpoint{"POST", "/oidc/backchannel-logout", doorLogout, accessOpen, a.backchannelLogout})
	}
	if a.events = o.Config.Events; len(a.events.Audiences) > 0 {
		a.pushed = newRecent(time.Hour)
		all = append(all, endpoint{"POST", "/ssf/events", doorEvents, accessOpen, a.receiveEvents})
	}
	if a.keycloak = o.Config.Keycloak; len(a.keycloak.Clients) > 0 {
		if a.keycloak.Issuer == "" {
			a.keycloak.Issuer = a.issuers.Verified[0] // the only one: Config.ValidateIssuers
		}
		for name, action := range map[string]string{"k_push_not_before": actionNotBefore, "k_logout": actionLogout, "k_test_available": actionTest} {
			all = append(all, endpoint{"POST", "/keycloak/" + name, doorKeycloak, accessOpen, a.keycloakAction(action)})
		}
	}
	return all
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

type promLog struct{ log *slog.Logger }

func (p promLog) Println(v ...any) { p.log.Warn("gathering metrics failed", "error", fmt.Sprint(v...)) }

// router routes by exact path. Nothing else is served.
type router struct {
	*api
	endpoints []endpoint
	paths     map[string]map[string]endpoint // by path and method
	// origin refuses what a browser sends on behalf of another site: a loopback
	// API without a token would otherwise be open to every page.
	origin *http.CrossOriginProtection
}

func (a *api) route(endpoints []endpoint) *router {
	rt := &router{api: a, endpoints: endpoints, paths: map[string]map[string]endpoint{}, origin: http.NewCrossOriginProtection()}
	for _, e := range endpoints {
		if rt.paths[e.path] == nil {
			rt.paths[e.path] = map[string]endpoint{}
		}
		rt.paths[e.path][e.method] = e
	}
	return rt
}

// ServeHTTP implements http.Handler.
func (rt *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	methods := rt.paths[r.URL.Path]
	if methods == nil {
		fail(http.StatusNotFound, "no such resource").write(w)
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	e, ok := methods[method]
	if !ok {
		allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
		h.Set("Allow", allowed)
		fail(http.StatusMethodNotAllowed, "allowed: "+allowed).write(w)
		return
	}
	rt.metrics.measure(e, w, func(w http.ResponseWriter) {
		defer rt.recover(w, r)
		if e.access != accessOpen {
			if err := rt.origin.Check(r); err != nil {
				fail(http.StatusForbidden, "requests from other sites are refused").write(w)
				return
			}
		}
		if e.access == accessPage {
			if r = rt.admitPage(w, r); r == nil {
				return
			}
		}
		if e.access == accessToken {
			var p *problem
			if r, p = rt.authenticate(w, r); p != nil {
				p.write(w)
				return
			}
		}
		e.serve(w, r)
	})
}

func (a *api) recover(w http.ResponseWriter, r *http.Request) {
	if p := recover(); p != nil {
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		a.log.ErrorContext(r.Context(), "panic in an HTTP handler", "path", r.URL.Path, "type", fmt.Sprintf("%T", p))
		fail(http.StatusInternalServerError, "internal error; it is not known what was done").write(w)
	}
}

type actorKey struct{}

// actorOf is who the request was authenticated as.
func actorOf(r *http.Request) string {
	s, _ := r.Context().Value(actorKey{}).(string)
	return s
}

// admit says who a request comes from. Without a token file, which Validate
// allows on loopback only, it admits everybody on this machine, but no web page
// that got here through a name of its own.
func (a *api) admit(r *http.Request) (actor string, p *problem) {
	if a.tokens == nil {
		if !a.knownHost(r.Host) {
			return "", fail(http.StatusForbidden, "the Host header names neither localhost nor an IP address nor one of api.hosts")
		}
		return "local", nil
	}
	scheme, presented, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if len(r.Header.Values("Authorization")) != 1 || !strings.EqualFold(scheme, "Bearer") {
		return "", fail(http.StatusUnauthorized, "the API's token is needed: Authorization: Bearer …")
	}
	name, ok, err := a.tokens.match(strings.TrimSpace(presented))
	switch {
	case err != nil:
		a.log.ErrorContext(r.Context(), "api.token_file cannot be used; nobody is admitted", "error", err)
		return "", unavailable("the API's tokens cannot be read")
	case !ok:
		return "", fail(http.StatusUnauthorized, "the token is not one of the API's")
	}
	return "api:" + name, nil
}

// authenticate puts the actor into the request's context, or says why not.
func (a *api) authenticate(w http.ResponseWriter, r *http.Request) (*http.Request, *problem) {
	actor, p := a.admit(r)
	if p == nil {
		return r.WithContext(context.WithValue(r.Context(), actorKey{}, actor)), nil
	}
	if p.Status != http.StatusServiceUnavailable {
		a.metrics.authFailures.Inc()
	}
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="jwt-bouncer"`)
	}
	return r, p
}

// knownHost refuses names that an attacker's DNS could point at this machine.
func (a *api) knownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), ".")
	return strings.EqualFold(host, "localhost") || net.ParseIP(host) != nil ||
		slices.ContainsFunc(a.hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// needType insists on a body of one media type, unencoded. A browser cannot
// send application/json across sites without asking first.
func needType(r *http.Request, want string) *problem {
	got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || got != want {
		return fail(http.StatusUnsupportedMediaType, "Content-Type: "+want+" is needed")
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return fail(http.StatusUnsupportedMediaType, "Content-Encoding is not supported")
	}
	return nil
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, *problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("at most %d bytes are taken", limit))
	case err != nil:
		return nil, fail(http.StatusBadRequest, "the body did not arrive whole")
	}
	return body, nil
}
