package page

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"sync"
	"time"

	"jwtbouncer/authz/httpapi"
)

const (
	sessionCookie   = "jwt_bouncer_session"
	sessionLifetime = 8 * time.Hour
	maxSessions     = 1000
)

// sessions are the sessions of signed-in operators. They are in memory only: a
// restart signs everyone out.
type sessions struct {
	secret [32]byte // keys the CSRF tokens

	mu   sync.Mutex
	open map[[sha256.Size]byte]session // by the digest of the cookie
}

type session struct {
	actor   string
	token   [sha256.Size]byte // digest of the API token that opened it
	expires time.Time
}

func newSessions() *sessions {
	s := &sessions{open: map[[sha256.Size]byte]session{}}
	_, _ = rand.Read(s.secret[:]) // never fails since Go 1.24
	return s
}

// start signs actor in and returns the cookie.
func (s *sessions) start(actor, token string, now time.Time, secure bool) *http.Cookie {
	id := rand.Text() + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, old := range s.open {
		if now.After(old.expires) || len(s.open) >= maxSessions {
			delete(s.open, key)
		}
	}
	s.open[sha256.Sum256([]byte(id))] = session{actor: actor, token: sha256.Sum256([]byte(token)), expires: now.Add(sessionLifetime)}
	return &http.Cookie{
		Name: sessionCookie, Value: id, Path: "/", MaxAge: int(sessionLifetime / time.Second),
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: secure,
	}
}

// find returns the request's session. A session ends with the API token that
// opened it: removing the token from the file signs its holder out.
func (s *sessions) find(r *http.Request, tokens *httpapi.TokenFile, now time.Time) (session, bool) {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return session{}, false
	}
	s.mu.Lock()
	found, ok := s.open[sha256.Sum256([]byte(c.Value))]
	s.mu.Unlock()
	return found, ok && !now.After(found.expires) && tokens.Holds(found.token)
}

func (s *sessions) end(r *http.Request) {
	if c, err := r.Cookie(sessionCookie); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, sha256.Sum256([]byte(c.Value)))
	}
}

// csrf returns the CSRF token of this caller's forms.
func (s *sessions) csrf(r *http.Request) string {
	id := "local"
	if c, err := r.Cookie(sessionCookie); err == nil {
		id = c.Value
	}
	mac := hmac.New(sha256.New, s.secret[:])
	_, _ = mac.Write([]byte(id)) // a hash never fails
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (s *sessions) checkCSRF(r *http.Request, presented string) bool {
	return hmac.Equal([]byte(s.csrf(r)), []byte(presented))
}
