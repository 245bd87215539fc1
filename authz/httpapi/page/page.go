// Package page serves the operator's page: decisions and freshness as they
// change, search, and revocation with confirmation. It holds the sessions of
// the operators who signed in, and nothing else.
package page

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
)

//go:embed *.html page.css page.js page.svg
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"human":     strings.NewReplacer("_", " ").Replace,
	"humanTime": humanTime,
	"timestamp": httpapi.FormatTime,
}).ParseFS(files, "*.html"))

// humanTime writes a time for people. The ledger keeps revocations that must
// never be dropped until the end of the year 9999.
func humanTime(t time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case t.Year() == 9999:
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// contentPolicy allows the page to load its own style and script only.
const contentPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// view is the data of the templates.
type view struct {
	Actor, CSRF string
	Local       bool // no token is required, so there is no session
	Issuers     []string
	Kinds       []string
	Stats       stats
	Error       string
	Done        string // id of the revocation that was just stored

	Search authz.Filter // of the list
	Found  []authz.Revocation
	Next   string

	Revocation authz.Revocation // to be confirmed
	Sentence   string
}

// page has the handlers.
type page struct {
	api      *httpapi.API
	issuers  authz.Issuers
	tokens   *httpapi.TokenFile // nil: no token is required
	sessions *sessions
	log      *slog.Logger
	clock    authz.Clock
}

// Register adds the page's endpoints to api.
func Register(api *httpapi.API) {
	o := api.Options()
	p := &page{api: api, issuers: o.Issuers, tokens: api.Tokens(), sessions: newSessions(), log: o.Logger, clock: o.Clock}
	handle := func(method, path string, access httpapi.Access, serve http.HandlerFunc) {
		api.Handle(httpapi.Endpoint{Method: method, Path: path, Source: httpapi.SourcePage, Access: access, Serve: serve})
	}
	handle("GET", "/", httpapi.AccessCaller, p.signedIn(p.show))
	handle("POST", "/search", httpapi.AccessCaller, p.signedIn(p.search))
	handle("POST", "/revoke", httpapi.AccessCaller, p.signedIn(p.revoke))
	handle("GET", "/stats.json", httpapi.AccessCaller, p.signedIn(p.statsJSON))
	handle("GET", "/page.css", httpapi.AccessOpen, asset("page.css", "text/css; charset=utf-8"))
	handle("GET", "/page.svg", httpapi.AccessOpen, asset("page.svg", "image/svg+xml"))
	handle("GET", "/page.js", httpapi.AccessOpen, asset("page.js", "text/javascript; charset=utf-8"))
	if p.tokens != nil {
		handle("GET", "/login", httpapi.AccessOpen, func(w http.ResponseWriter, r *http.Request) { p.render(w, r, http.StatusOK, "login.html", view{}) })
		handle("POST", "/login", httpapi.AccessCaller, p.login)
		handle("POST", "/logout", httpapi.AccessCaller, p.signedIn(p.logout))
	}
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
	v.Actor, v.Local, v.Issuers, v.CSRF = httpapi.ActorOf(r), p.tokens == nil, p.issuers.All(), p.sessions.csrf(r)
	v.Kinds = []string{"jti", "sub", "sid", "kid", "token", "iss"}
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

func (p *page) statsJSON(w http.ResponseWriter, _ *http.Request) {
	httpapi.WriteJSON(w, http.StatusOK, "application/json", p.stats())
}

func (p *page) show(w http.ResponseWriter, r *http.Request) {
	var v view
	if id := r.URL.Query().Get("done"); id != "" && strings.Trim(id, "0123456789") == "" {
		v.Done = httpapi.Shorten(id)
	}
	p.renderMain(w, r, http.StatusOK, v)
}

// renderMain shows the page with the revocations that v.Search selects.
func (p *page) renderMain(w http.ResponseWriter, r *http.Request, status int, v view) {
	v.Stats = p.stats()
	v.Search.Limit = 20
	var problem *httpapi.Problem
	if v.Found, v.Next, problem = p.api.List(r, v.Search); problem != nil && v.Error == "" {
		v.Error = problem.Detail
	}
	p.render(w, r, status, "main.html", v)
}

// search takes a form rather than a query string, so that no identifier ends up
// in a URL. It looks a whole token up by its hash.
func (p *page) search(w http.ResponseWriter, r *http.Request) {
	values, ok := p.readForm(w, r)
	if !ok {
		return
	}
	v := view{Search: authz.Filter{Issuer: values.Get("iss"), Value: strings.TrimSpace(values.Get("value")), After: values.Get("after"), IncludeExpired: values.Get("include_expired") != ""}}
	v.Search.Kind, _ = authz.ParseKind(values.Get("kind"))
	if c, ok := authz.ReadUnverifiedClaims(v.Search.Value); ok {
		v.Search.Kind, v.Search.Issuer, v.Search.Value = authz.KindToken, c.Issuer, authz.TokenValue(v.Search.Value)
	}
	p.renderMain(w, r, http.StatusOK, v)
}

// revoke asks for confirmation, and revokes once the form contains it.
func (p *page) revoke(w http.ResponseWriter, r *http.Request) {
	values, ok := p.readForm(w, r)
	if !ok {
		return
	}
	revocations, err := p.readRevocations(httpapi.ActorOf(r), values)
	if err != nil {
		p.renderMain(w, r, http.StatusBadRequest, view{Error: strings.TrimPrefix(err.Error(), authz.ErrInvalid.Error()+": ")})
		return
	}
	first := revocations[0] // several differ in their issuer only
	confirm := view{Revocation: first, Sentence: sentence(first)}
	if values.Get("confirmed") == "" {
		p.render(w, r, http.StatusOK, "confirm.html", confirm)
		return
	}
	if first.Kind == authz.KindIss && values.Get("typed") != first.Issuer {
		confirm.Error = "What you typed is not the issuer's name; nothing was revoked."
		p.render(w, r, http.StatusBadRequest, "confirm.html", confirm)
		return
	}
	rec, problem := p.api.Store(r, httpapi.SourcePage, revocations)
	if problem != nil {
		confirm.Error = problem.Detail
		p.render(w, r, problem.Status, "confirm.html", confirm)
		return
	}
	http.Redirect(w, r, "/?done="+url.QueryEscape(rec.Revocations[0].ID), http.StatusSeeOther)
}

// readRevocations reads the form under the rules of the API.
func (p *page) readRevocations(actor string, values url.Values) ([]authz.Revocation, error) {
	request := authz.RevocationRequest{RevokedBy: actor, Reason: strings.TrimSpace(values.Get("reason"))}
	if iss := values.Get("iss"); iss != "" {
		request.Issuer = &iss
	}
	kind, _ := authz.ParseKind(values.Get("kind"))
	request.Select(kind, strings.TrimSpace(values.Get("value")))
	for name, into := range map[string]*time.Time{"not_before": &request.NotBefore, "expires_at": &request.ExpiresAt} {
		t, err := parseTime(values.Get(name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		*into = t
	}
	return request.Normalize(p.issuers, p.clock.Now())
}

// parseTime reads a datetime field or RFC 3339 text, both in UTC unless the
// text has a zone. Empty text is the zero time.
func parseTime(text string) (time.Time, error) {
	if text = strings.TrimSpace(text); text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil && t.Unix() > 0 && t.Unix() <= authz.LastSecond {
			return t, nil
		}
	}
	return time.Time{}, errors.New("must be a time such as 2030-01-31T12:00")
}

// sentence says in full what would be revoked.
func sentence(r authz.Revocation) string {
	tokens := map[authz.Kind]string{
		authz.KindJTI: "The token with the jti %q", authz.KindSub: "Every token of the subject %q", authz.KindSID: "Every token of the session %q",
		authz.KindKID: "Every token signed with the key %q", authz.KindToken: "The token with the hash %q", authz.KindIss: "Every token%.0s",
	}[r.Kind]
	text := fmt.Sprintf(tokens, r.Value) + " from " + r.Issuer
	if r.NotBefore.IsZero() {
		return text + " will stop working."
	}
	return text + " issued before " + r.NotBefore.UTC().Format("2006-01-02 15:04:05") + " UTC will stop working. Tokens issued later are not affected."
}
