package httpapi

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"jwtbouncer/authz"
)

//go:embed page
var pageFiles embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"human": strings.NewReplacer("_", " ").Replace,
	"when":  when,
	"stamp": timeText,
}).ParseFS(pageFiles, "page/*.html"))

// when writes a time for people. The ledger keeps what must not be forgotten
// until the end of the year 9999.
func when(t time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case t.Year() == 9999:
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// contentPolicy lets the page load its own style and script and nothing else.
const contentPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// view is what the templates get.
type view struct {
	Actor, CSRF string
	Local       bool // nobody is signed in, because no token is asked for
	Issuers     []string
	Kinds       []string
	Stats       stats
	Error       string
	Done        string

	Search authz.Filter // of the list
	Found  []authz.Revocation
	Next   string

	Order    authz.Revocation // to be confirmed
	Sentence string
}

func (a *api) pageEndpoints() []endpoint {
	a.sessions = newSessions()
	all := []endpoint{
		{"GET", "/", doorPage, accessPage, a.showPage},
		{"POST", "/search", doorPage, accessPage, a.searchPage},
		{"POST", "/revoke", doorPage, accessPage, a.revokePage},
		{"GET", "/stats.json", doorPage, accessPage, a.statsJSON},
		{"GET", "/page.css", doorPage, accessOpen, a.asset("page/page.css", "text/css; charset=utf-8")},
		{"GET", "/page.svg", doorPage, accessOpen, a.asset("page/page.svg", "image/svg+xml")},
		{"GET", "/page.js", doorPage, accessOpen, a.asset("page/page.js", "text/javascript; charset=utf-8")},
	}
	if a.tokens != nil {
		all = append(all,
			endpoint{"GET", "/login", doorPage, accessOpen, func(w http.ResponseWriter, r *http.Request) { a.render(w, r, http.StatusOK, "login.html", view{}) }},
			endpoint{"POST", "/login", doorPage, accessClient, a.login},
			endpoint{"POST", "/logout", doorPage, accessPage, a.logoutPage})
	}
	return all
}

func (a *api) asset(name, contentType string) http.HandlerFunc {
	body, err := pageFiles.ReadFile(name)
	if err != nil {
		panic(err) // embedded: a defect of the build
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}
}

// render writes a page. It is rendered whole before a byte is sent.
func (a *api) render(w http.ResponseWriter, r *http.Request, status int, name string, v view) {
	v.Actor, v.Local, v.Issuers, v.CSRF = actorOf(r), a.tokens == nil, a.issuers.All(), a.sessions.csrf(r)
	v.Kinds = []string{"jti", "sub", "sid", "kid", "token", "iss"}
	var body bytes.Buffer
	if err := pages.ExecuteTemplate(&body, name, v); err != nil {
		a.log.ErrorContext(r.Context(), "page cannot be rendered", "page", name, "error", err)
		fail(http.StatusInternalServerError, "the page cannot be rendered").write(w)
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

// admitPage authenticates the page's caller by session; on loopback without a
// token, by being there. When it returns nil, the reply has been written.
func (a *api) admitPage(w http.ResponseWriter, r *http.Request) *http.Request {
	var actor string
	if a.tokens == nil {
		var p *problem
		if actor, p = a.admit(r); p != nil {
			p.write(w)
			return nil
		}
	} else {
		s, ok := a.sessions.find(r, a.tokens, a.clock.Now())
		switch {
		case ok:
			actor = s.actor
		case r.Method == http.MethodGet && r.URL.Path == "/":
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return nil
		default:
			fail(http.StatusUnauthorized, "sign in at /login").write(w)
			return nil
		}
	}
	return r.WithContext(context.WithValue(r.Context(), actorKey{}, actor))
}

func (a *api) login(w http.ResponseWriter, r *http.Request) {
	values, p := form(w, r)
	if p != nil {
		p.write(w)
		return
	}
	token := strings.TrimSpace(values.Get("token"))
	name, ok, err := a.tokens.match(token)
	switch {
	case err != nil:
		a.log.ErrorContext(r.Context(), "api.token_file cannot be used; nobody is admitted", "error", err)
		a.render(w, r, http.StatusServiceUnavailable, "login.html", view{Error: "The tokens cannot be read for now."})
		return
	case !ok:
		a.metrics.authFailures.Inc()
		a.log.WarnContext(r.Context(), "sign-in refused", "log", "audit", "remote", r.RemoteAddr)
		a.render(w, r, http.StatusUnauthorized, "login.html", view{Error: "This is not one of the API's tokens."})
		return
	}
	a.log.InfoContext(r.Context(), "signed in", "log", "audit", "actor", "page:"+name, "remote", r.RemoteAddr)
	http.SetCookie(w, a.sessions.start("page:"+name, token, a.clock.Now(), r.TLS != nil))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (a *api) logoutPage(w http.ResponseWriter, r *http.Request) {
	if _, ok := a.pageForm(w, r); !ok {
		return
	}
	a.sessions.end(r)
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// pageForm reads a form of the page and checks its CSRF token.
func (a *api) pageForm(w http.ResponseWriter, r *http.Request) (url.Values, bool) {
	values, p := form(w, r)
	if p == nil && !a.sessions.checkCSRF(r, values.Get("csrf")) {
		p = fail(http.StatusForbidden, "the form is from another session; load the page again")
	}
	if p != nil {
		p.write(w)
		return nil, false
	}
	return values, true
}

func (a *api) statsJSON(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", a.stats())
}

func (a *api) showPage(w http.ResponseWriter, r *http.Request) {
	v := view{}
	if id := r.URL.Query().Get("done"); id != "" && strings.Trim(id, "0123456789") == "" {
		v.Done = shorten(id)
	}
	a.renderMain(w, r, http.StatusOK, v)
}

// renderMain shows the page with the list that v searches for.
func (a *api) renderMain(w http.ResponseWriter, r *http.Request, status int, v view) {
	v.Stats = a.stats()
	v.Search.Limit = 20
	ctx, cancel := context.WithTimeout(r.Context(), a.commitTimeout)
	defer cancel()
	var err error
	if v.Found, v.Next, err = a.lister.List(ctx, v.Search); err != nil && v.Error == "" {
		v.Error = a.listFailed(r, err).Detail
	}
	a.render(w, r, status, "main.html", v)
}

// searchPage takes the search as a form, so that no identifier ends up in an
// address. A whole token is searched for by its hash.
func (a *api) searchPage(w http.ResponseWriter, r *http.Request) {
	values, ok := a.pageForm(w, r)
	if !ok {
		return
	}
	v := view{Search: authz.Filter{Issuer: values.Get("iss"), Value: strings.TrimSpace(values.Get("value")), After: values.Get("after"), IncludeExpired: values.Get("include_expired") != ""}}
	v.Search.Kind, _ = authz.ParseKind(values.Get("kind"))
	if c, ok := authz.ReadUnverifiedClaims(v.Search.Value); ok {
		v.Search.Kind, v.Search.Issuer, v.Search.Value = authz.KindToken, c.Issuer, authz.TokenValue(v.Search.Value)
	}
	a.renderMain(w, r, http.StatusOK, v)
}

// revokePage asks for confirmation first, and revokes when the form says that
// it was given.
func (a *api) revokePage(w http.ResponseWriter, r *http.Request) {
	values, ok := a.pageForm(w, r)
	if !ok {
		return
	}
	revocations, err := a.pageRequest(actorOf(r), values)
	if err != nil {
		a.renderMain(w, r, http.StatusBadRequest, view{Error: strings.TrimPrefix(err.Error(), authz.ErrInvalid.Error()+": ")})
		return
	}
	revocation := revocations[0] // there are several of one token only
	confirm := view{Order: revocation, Sentence: sentence(revocation)}
	if values.Get("confirmed") == "" {
		a.render(w, r, http.StatusOK, "confirm.html", confirm)
		return
	}
	if revocation.Kind == authz.KindIss && values.Get("typed") != revocation.Issuer {
		confirm.Error = "The issuer was not typed as it is written above; nothing was revoked."
		a.render(w, r, http.StatusBadRequest, "confirm.html", confirm)
		return
	}
	rec, p := a.store(r, doorPage, actorOf(r), revocations)
	if p != nil {
		confirm.Error = p.Detail
		a.render(w, r, p.Status, "confirm.html", confirm)
		return
	}
	http.Redirect(w, r, "/?done="+url.QueryEscape(rec.Revocations[0].ID), http.StatusSeeOther)
}

// pageRequest reads the form as if it had been sent to the API.
func (a *api) pageRequest(actor string, values url.Values) ([]authz.Revocation, error) {
	request := authz.RevocationRequest{Actor: actor, Reason: strings.TrimSpace(values.Get("reason"))}
	if iss := values.Get("iss"); iss != "" {
		request.Issuer = &iss
	}
	kind, _ := authz.ParseKind(values.Get("kind"))
	request.Select(kind, strings.TrimSpace(values.Get("value")))
	for name, into := range map[string]*time.Time{"not_before": &request.NotBefore, "expires_at": &request.ExpiresAt} {
		t, err := parseFormTime(values.Get(name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		*into = t
	}
	return request.Normalize(a.issuers, a.clock.Now())
}

// parseFormTime reads a datetime field or RFC 3339 text, both in UTC unless the
// text has a zone. Empty text is the zero time.
func parseFormTime(text string) (time.Time, error) {
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
	what := map[authz.Kind]string{
		authz.KindJTI: "The token with the jti %q", authz.KindSub: "Every token of the subject %q", authz.KindSID: "Every token of the session %q",
		authz.KindKID: "Every token signed with the key %q", authz.KindToken: "The token with the hash %q", authz.KindIss: "Every token%.0s",
	}[r.Kind]
	text := fmt.Sprintf(what, r.Value) + fmt.Sprintf(" from %s", r.Issuer)
	if !r.NotBefore.IsZero() {
		text += " issued before " + r.NotBefore.UTC().Format("2006-01-02 15:04:05") + " UTC"
	}
	text += " will stop working."
	if !r.NotBefore.IsZero() {
		text += " Tokens issued later are not affected."
	}
	return text
}
