// Package page serves the operator's page: decisions and freshness as they
// change, search, and revocation with confirmation. It holds the sessions of
// the operators who signed in, and nothing else.
package page

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
)

//go:embed *.html page.css page.js page.svg
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"human":     human,
	"amount":    amount,
	"humanTime": humanTime,
	"timestamp": httpapi.FormatTime,
	"who":       whoOf,
}).ParseFS(files, "*.html"))

// human writes a constant of the metrics or of the API for people.
func human(s string) string { return strings.ReplaceAll(s, "_", " ") }

// humanTime writes a time for people. The ledger keeps revocations that must
// never be dropped until the end of the year 9999.
func humanTime(t time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case t.Year() == 9999:
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// contentPolicy allows the page to load its own style and script only.
const contentPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// view is the data of the templates.
type view struct {
	Actor, CSRF string
	Local       bool // no token is required, so there is no session
	Issuers     []string
	Claims      []string // by which tokens can be revoked
	Kinds       []string
	Now         now
	Error       string
	Done        string // id of the revocation that was just stored

	Form form // to revoke

	Search   authz.Filter // of the list
	Found    []authz.Revocation
	Next     string
	Unlisted string // why the list could not be read; "": it was

	Revocations []authz.Revocation // to be confirmed; they differ in their issuer only
	Sentence    string
	Typed       string
}

// page has the handlers.
type page struct {
	api      *httpapi.API
	issuers  authz.Issuers
	tokens   *httpapi.TokenFile // nil: no token is required
	sessions *sessions
	series   *series
	log      *slog.Logger
	clock    authz.Clock
}

// Register adds the page's endpoints to api. The charts have data while run runs,
// until its context ends.
func Register(api *httpapi.API) (run func(context.Context) error) {
	o := api.Options()
	p := &page{api: api, issuers: o.Issuers, tokens: api.Tokens(), sessions: newSessions(), series: newSeries(), log: o.Logger, clock: o.Clock}
	handle := func(method, path string, access httpapi.Access, serve http.HandlerFunc) {
		api.Handle(httpapi.Endpoint{Method: method, Path: path, Source: httpapi.SourcePage, Access: access, Serve: serve})
	}
	handle("GET", "/", httpapi.AccessCaller, p.signedIn(p.show))
	handle("GET", "/live", httpapi.AccessCaller, p.signedIn(p.live))
	handle("POST", "/search", httpapi.AccessCaller, p.signedIn(p.search))
	handle("POST", "/revoke", httpapi.AccessCaller, p.signedIn(p.revoke))
	handle("GET", "/page.css", httpapi.AccessOpen, asset("page.css", "text/css; charset=utf-8"))
	handle("GET", "/page.svg", httpapi.AccessOpen, asset("page.svg", "image/svg+xml"))
	handle("GET", "/page.js", httpapi.AccessOpen, asset("page.js", "text/javascript; charset=utf-8"))
	if p.tokens != nil {
		handle("GET", "/login", httpapi.AccessOpen, func(w http.ResponseWriter, r *http.Request) { p.render(w, r, http.StatusOK, "login.html", view{}) })
		handle("POST", "/login", httpapi.AccessCaller, p.login)
		handle("POST", "/logout", httpapi.AccessCaller, p.signedIn(p.logout))
	}
	return p.run
}

func asset(name, contentType string) http.HandlerFunc {
	body, err := files.ReadFile(name)
	if err != nil {
		panic(err) // embedded: a programming error
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}
}

// render sends a page, after rendering all of it.
func (p *page) render(w http.ResponseWriter, r *http.Request, status int, name string, v view) {
	v.Actor, v.Local, v.CSRF = httpapi.ActorOf(r), p.tokens == nil, p.sessions.csrf(r)
	v.Issuers, v.Claims = slices.Concat(p.issuers.All(), p.issuers.Templates), p.issuers.Claims
	v.Kinds = authz.KindNames()
	var body bytes.Buffer
	if err := templates.ExecuteTemplate(&body, name, v); err != nil {
		p.log.ErrorContext(r.Context(), "page cannot be rendered", "page", name, "error", err)
		httpapi.Fail(http.StatusInternalServerError, "the page cannot be rendered").Write(w)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
}

// signedIn admits callers with a session or, on loopback without a token file,
// every caller.
func (p *page) signedIn(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if p.tokens == nil {
			if actor, problem := p.api.Admit(r); problem != nil {
				problem.Write(w)
			} else {
				serve(w, httpapi.WithActor(r, actor))
			}
			return
		}
		s, ok := p.sessions.find(r, p.tokens, p.clock.Now())
		switch {
		case ok:
			serve(w, httpapi.WithActor(r, s.actor))
		case r.Method == http.MethodGet && r.URL.Path == "/":
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		default:
			httpapi.Fail(http.StatusUnauthorized, "sign in at /login").Write(w)
		}
	}
}

func (p *page) login(w http.ResponseWriter, r *http.Request) {
	values, problem := httpapi.ReadForm(w, r)
	if problem != nil {
		problem.Write(w)
		return
	}
	token := strings.TrimSpace(values.Get("token"))
	name, ok, err := p.tokens.Match(token)
	switch {
	case err != nil:
		p.log.ErrorContext(r.Context(), "api.token_file cannot be used; all callers are refused", "error", err)
		p.render(w, r, http.StatusServiceUnavailable, "login.html", view{Error: "The API tokens cannot be read at the moment."})
	case !ok:
		p.api.CountAuthFailure()
		p.log.WarnContext(r.Context(), "sign-in refused", "log", "audit", "remote", r.RemoteAddr)
		p.render(w, r, http.StatusUnauthorized, "login.html", view{Error: "This is not one of the API tokens."})
	default:
		p.api.AuditLog().InfoContext(r.Context(), "signed in", "log", "audit", "actor", "page:"+name, "remote", r.RemoteAddr)
		http.SetCookie(w, p.sessions.start("page:"+name, token, p.clock.Now(), r.TLS != nil))
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

func (p *page) logout(w http.ResponseWriter, r *http.Request) {
	if _, ok := p.readForm(w, r); !ok {
		return
	}
	p.sessions.end(r)
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// readForm reads a form of the page and checks its CSRF token. If it returns
// false, it has sent the response.
func (p *page) readForm(w http.ResponseWriter, r *http.Request) (url.Values, bool) {
	values, problem := httpapi.ReadForm(w, r)
	if problem == nil && !p.sessions.checkCSRF(r, values.Get("csrf")) {
		problem = httpapi.Fail(http.StatusForbidden, "the form belongs to another session; reload the page")
	}
	if problem != nil {
		problem.Write(w)
		return nil, false
	}
	return values, true
}

// live sends the part of the page that changes by itself.
func (p *page) live(w http.ResponseWriter, r *http.Request) {
	p.render(w, r, http.StatusOK, "live", view{Now: p.look(findSpan(r.URL.Query().Get("range")))})
}

func (p *page) show(w http.ResponseWriter, r *http.Request) {
	v := view{Form: p.emptyForm()}
	if id := r.URL.Query().Get("done"); id != "" && strings.Trim(id, "0123456789") == "" {
		v.Done = authz.Shorten(id)
	}
	// Nobody asked for the list yet, so the rest of the page waits for it only briefly.
	ctx, cancel := context.WithTimeout(r.Context(), listWait)
	defer cancel()
	p.renderMain(w, r.WithContext(ctx), http.StatusOK, v)
}

// listWait is how long the page waits for the newest revocations.
const listWait = 2 * time.Second

// emptyForm names the issuer if there is no choice.
func (p *page) emptyForm() form {
	f := form{Kind: "jti"}
	if all := p.issuers.All(); len(all) == 1 && len(p.issuers.Templates) == 0 {
		f.Issuer = all[0]
	}
	return f
}

// renderMain shows the page with the revocations that v.Search selects.
func (p *page) renderMain(w http.ResponseWriter, r *http.Request, status int, v view) {
	v.Now = p.look(findSpan(r.URL.Query().Get("range")))
	v.Search.Limit = 20
	var problem *httpapi.Problem
	if v.Found, v.Next, problem = p.api.List(r, v.Search); problem != nil {
		v.Unlisted = "This list could not be read: " + problem.Detail + "."
		if problem.Status == http.StatusServiceUnavailable {
			v.Unlisted = "The revocation store does not answer, so this list could not be read. What was revoked stays revoked."
		}
	}
	p.render(w, r, status, "main.html", v)
}

// search takes a form rather than a query string, so that no identifier ends up
// in a URL. It looks a whole token up by its hash, and any other value by its
// beginning.
func (p *page) search(w http.ResponseWriter, r *http.Request) {
	values, ok := p.readForm(w, r)
	if !ok {
		return
	}
	v := view{Form: p.emptyForm()}
	v.Search = authz.Filter{Issuer: strings.TrimSpace(values.Get("iss")), ValuePrefix: strings.TrimSpace(values.Get("value")), After: values.Get("after"), IncludeExpired: values.Get("include_expired") != ""}
	v.Search.Kind, _ = authz.ParseKind(values.Get("kind"))
	if c, ok := authz.ReadUnverifiedClaims(v.Search.ValuePrefix); ok {
		v.Search.Kind, v.Search.Issuer, v.Search.ValuePrefix = authz.KindToken, c.Issuer, authz.TokenValue(v.Search.ValuePrefix)
	}
	p.renderMain(w, r, http.StatusOK, v)
}

// revoke asks for confirmation, and revokes once the form contains it.
func (p *page) revoke(w http.ResponseWriter, r *http.Request) {
	values, ok := p.readForm(w, r)
	if !ok {
		return
	}
	f := readForm(values)
	revocations, err := f.revocations(httpapi.ActorOf(r), values, p.issuers, p.clock.Now())
	if err != nil {
		p.renderMain(w, r, http.StatusBadRequest, view{Form: f.fail(err)})
		return
	}
	first := revocations[0]
	confirm := view{Revocations: revocations, Sentence: sentence(revocations), Typed: values.Get("typed")}
	if values.Get("confirmed") == "" {
		p.render(w, r, http.StatusOK, "confirm.html", confirm)
		return
	}
	if first.Kind == authz.KindIss && confirm.Typed != first.Issuer {
		confirm.Error = "What you typed is not the issuer's name; nothing was revoked."
		p.render(w, r, http.StatusBadRequest, "confirm.html", confirm)
		return
	}
	rec, problem := p.api.Store(r.Context(), httpapi.SourcePage, revocations)
	if problem != nil {
		confirm.Error = upper(problem.Detail) + "."
		p.render(w, r, problem.Status, "confirm.html", confirm)
		return
	}
	http.Redirect(w, r, "/?done="+url.QueryEscape(rec.Revocations[0].ID), http.StatusSeeOther)
}
