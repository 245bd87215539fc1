package doctor

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/config"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/envoy"
	"jwtbouncer/envoy/sidecar"
)

// Needs returns what a sidecar with the settings needs of its proxy.
func Needs(s sidecar.Settings) Requirements {
	n := Requirements{AnswerTime: envoy.AnswerTime, Credentials: []string{"authorization"}, GRPC: s.Listen.GRPC, Metadata: len(s.Headers.Metadata) > 0, ForwardedCert: s.Binding.TrustForwardedCertificate}
	for name := range s.Headers.Claims {
		n.IdentityHeaders = append(n.IdentityHeaders, strings.ToLower(name))
	}
	slices.Sort(n.IdentityHeaders)
	for _, r := range s.Routes {
		n.Certificate = n.Certificate || r.Require == "mtls" || r.Require == "any"
		n.DPoP = n.DPoP || r.Require == "dpop" || r.Require == "any"
		if len(r.Credentials.Cookies) > 0 {
			n.Credentials = append(n.Credentials, "cookie")
		}
		for _, h := range r.Credentials.Headers {
			n.Credentials = append(n.Credentials, strings.ToLower(h))
		}
	}
	slices.Sort(n.Credentials)
	n.Credentials = slices.Compact(n.Credentials)
	return n
}

// Configuration reports the errors of loading the settings, and who may read and
// change their file. An empty name means that there is none.
func (r *Report) Configuration(file string, s sidecar.Settings, err error) {
	var invalid config.Error
	where := cmp.Or(file, "defaults and environment")
	switch {
	case errors.As(err, &invalid):
		for _, e := range invalid {
			r.find(Failure, "config.valid", cmp.Or(e.Field, where), "%s", e.Error())
		}
		return
	case err != nil:
		r.find(Failure, "config.valid", where, "%v", err)
		return
	}
	r.pass("config.valid", where)
	if routes, err := s.OfflinePolicy(); err == nil {
		clean := true
		routes.Warnings(func(path, format string, args ...any) {
			clean = false
			r.find(Warning, "config.routes", "routes"+path, format, args...)
		})
		if clean {
			r.pass("config.routes", fmt.Sprintf("%d route(s)", len(s.Routes)))
		}
	}
	if file == "" {
		return
	}
	info, err := os.Stat(file)
	if err != nil {
		r.find(Failure, "config.valid", file, "%v", err)
		return
	}
	const id = "config.permissions"
	text, _ := os.ReadFile(file) // Load has read it
	switch mode := info.Mode().Perm(); {
	case mode&0o002 != 0:
		r.find(Failure, id, file, "every user may write to it (%s)", mode)
	case mode&0o004 != 0 && holdsPassword(string(text), s):
		r.find(Warning, id, file, "every user may read it (%s), and it contains a password", mode)
	default:
		r.pass(id, file)
	}
}

// holdsPassword reports whether the text contains the password of the store or of
// Redis.
func holdsPassword(text string, s sidecar.Settings) bool {
	if s.Redis.Password != "" && strings.Contains(text, s.Redis.Password) {
		return true
	}
	for _, raw := range append([]string{s.Store, s.Redis.URL}, s.StoreStandby...) {
		if u, err := url.Parse(raw); err == nil && u.User != nil {
			if password, _ := u.User.Password(); password != "" && strings.Contains(text, raw) {
				return true
			}
		}
	}
	return false
}

// certificateTime is how long before its end a certificate is worth a warning.
const certificateTime = 14 * 24 * time.Hour

// Files examines the files that the settings name, and the place of the socket.
func (r *Report) Files(s sidecar.Settings) {
	for _, f := range s.Files() {
		where := f.Key + " " + f.Path
		if f.Err != nil {
			r.find(Failure, "files.readable", where, "%v", f.Err)
			continue
		}
		r.pass("files.readable", where)
		r.permissions(where, f)
		if f.Certificate {
			r.certificate(where, f.Path)
		}
	}
	if path, ok := strings.CutPrefix(s.Listen.GRPC, "unix://"); ok {
		dir := filepath.Dir(path)
		info, err := os.Stat(dir)
		switch {
		case err != nil:
			r.find(Failure, "files.socket", "listen.grpc "+path, "%v", err)
		case info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0:
			r.find(Failure, "files.socket", "listen.grpc "+path, "every user may write to %s (%s)", dir, info.Mode().Perm())
		default:
			r.pass("files.socket", path)
		}
	}
}

func (r *Report) permissions(where string, f sidecar.File) {
	const id = "files.permissions"
	info, err := os.Stat(f.Path)
	if err != nil { // removed since
		r.find(Failure, "files.readable", where, "%v", err)
		return
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o002 != 0:
		r.find(Failure, id, where, "every user may write to it (%s)", mode)
	case f.Secret && mode&0o004 != 0:
		r.find(Warning, id, where, "every user may read it (%s)", mode)
	default:
		r.pass(id, where)
	}
}

func (r *Report) certificate(where, path string) {
	const id = "files.certificate"
	text, err := os.ReadFile(path)
	block, _ := pem.Decode(text)
	if err != nil || block == nil {
		r.find(Failure, id, where, "no certificate can be read from it")
		return
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		r.find(Failure, id, where, "%v", err)
		return
	}
	switch left := time.Until(c.NotAfter); {
	case left <= 0:
		r.find(Failure, id, where, "it expired on %s", c.NotAfter.UTC().Format(time.RFC3339))
	case left < certificateTime:
		r.find(Warning, id, where, "it expires on %s", c.NotAfter.UTC().Format(time.RFC3339))
	default:
		r.pass(id, where)
	}
}

// Issuers fetches the keys of every issuer, as a sidecar does, and compares the
// clocks.
func (r *Report) Issuers(ctx context.Context, s sidecar.Settings) {
	v, err := issuer.NewVerifier(s.Issuers, issuer.VerifierOptions{
		MaxTokenTTL: s.Revocation.MaxTokenTTL, Limits: s.Limits, Clock: authz.SystemClock{},
		Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	if err != nil {
		r.find(Failure, "issuers.keys", "", "%v", err)
		return
	}
	defer v.Close()
	_ = v.Refresh(ctx) // the status has the errors of each issuer
	for i, st := range v.Status() {
		where := "issuer " + st.Issuer
		switch {
		case st.Err != "":
			r.find(Failure, "issuers.keys", where, "%s", st.Err)
		case st.Fetched.IsZero():
			r.find(Failure, "issuers.keys", where, "its keys did not come in time")
		case st.Keys == 0:
			r.find(Failure, "issuers.keys", where, "the set has no usable key (%d refused)", st.Refused)
		default:
			r.pass("issuers.keys", fmt.Sprintf("%s: %d", st.Issuer, st.Keys))
		}
		if st.Err == "" && !st.Fetched.IsZero() {
			r.expect(st.Refused == 0, "issuers.refused", where, "%d of its keys cannot be used: %s", st.Refused, strings.Join(st.Why, "; "))
		}
		c := s.Issuers[i]
		u, err := url.Parse(source(c))
		if err != nil || u.Host == "" {
			continue // a file
		}
		r.expect(u.Scheme == "https" || authz.IsLoopback(u.Hostname()), "issuers.plaintext", where, "its keys come over http from %s", u.Host)
		if st.Keys > 0 && st.Err == "" {
			r.issuerClock(ctx, where, c)
		}
	}
}

// source is the URL at which the issuer's keys or discovery document are.
func source(c issuer.Config) string {
	if c.JWKS != "" {
		return c.JWKS
	}
	return strings.TrimSuffix(c.Issuer, "/") + "/.well-known/openid-configuration"
}

// fetchTimeout is the default of an issuer's fetch_timeout.
const fetchTimeout = 5 * time.Second

// issuerClock compares the Date of the issuer's answer, which has whole seconds,
// with the clock here.
func (r *Report) issuerClock(ctx context.Context, where string, c issuer.Config) {
	const id = "clocks.issuer"
	client, err := fetch.NewClient(fetch.ClientOptions{Config: c.Config, Timeout: cmp.Or(c.FetchTimeout, fetchTimeout)})
	if err != nil {
		r.unknown(id, where, "%v", err)
		return
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source(c), http.NoBody)
	if err != nil {
		r.unknown(id, where, "%v", err)
		return
	}
	if c.BearerTokenFile != "" {
		_ = fetch.SetBearerToken(req, c.BearerTokenFile) // without it, a refusal has a Date as well
	}
	sent := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		r.unknown(id, where, "%v", err)
		return
	}
	defer resp.Body.Close()
	took := time.Since(sent)
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil || resp.Header.Get("Age") != "" {
		r.unknown(id, where, "its answer has no Date of its own")
		return
	}
	// Date has whole seconds, so it is half a second behind in the middle.
	r.clock(id, where, date.Add(time.Second/2).Sub(sent.Add(took/2)), took/2+time.Second/2, max(c.Leeway, time.Second))
}

// clock judges a clock that is ahead of the one here by skew, give or take
// uncertain.
func (r *Report) clock(id, where string, skew, uncertain, tolerated time.Duration) {
	if skew.Abs() <= tolerated+uncertain {
		r.pass(id, where)
		return
	}
	s := Warning
	if skew > authz.MaxClockLag {
		s = Failure
	}
	r.find(s, id, where, "its clock is %s %s the one here", skew.Abs().Round(time.Second), map[bool]string{true: "ahead of", false: "behind"}[skew > 0])
}
