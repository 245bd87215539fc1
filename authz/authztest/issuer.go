package authztest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Issuer is an identity provider for tests and demonstrations: it signs what
// it is told to, serves its key set and OpenID Connect discovery over HTTP,
// rotates and withdraws keys, and misbehaves on demand. It is safe for
// concurrent use.
type Issuer struct {
	// URL is the address of the issuer's own server, without a trailing
	// slash; empty with Offline.
	URL string
	// Name is the "iss" claim and the discovered issuer: URL unless Named was
	// given as an option.
	Name string

	now    func() time.Time
	server *http.Server

	mu        sync.Mutex
	keys      []*Key // the first of an algorithm signs
	published []byte // replaces the rendered key set; nil: render
	jwksFault *Fault
	metaFault *Fault

	jwksFetches, metaFetches atomic.Int64
}

// Option changes what NewIssuer makes.
type Option func(*settings)

type settings struct {
	name    string
	address string
	offline bool
	algs    []string
	now     func() time.Time
}

// Named sets the "iss" the issuer goes by, where that is not its address.
func Named(iss string) Option { return func(s *settings) { s.name = iss } }

// Address sets where the issuer listens; the default is a free loopback port.
func Address(hostport string) Option { return func(s *settings) { s.address = hostport } }

// Offline makes an issuer without a server: its key set is handed over as a
// file, or through Handler.
func Offline() Option { return func(s *settings) { s.offline = true } }

// Algorithms sets for which algorithms keys are made, the default one first.
// Without it there is one ES256 key, which is quick to make.
func Algorithms(algs ...string) Option { return func(s *settings) { s.algs = algs } }

// Clock sets where Mint takes the time from; the default is time.Now.
func Clock(now func() time.Time) Option { return func(s *settings) { s.now = now } }

// NewIssuer makes the keys and, unless Offline is among the options, starts
// the issuer's server. The caller ends it with Close. It panics on an option
// that cannot be honoured: an unknown algorithm or an address in use.
func NewIssuer(options ...Option) *Issuer {
	s := settings{address: "127.0.0.1:0", algs: []string{"ES256"}, now: time.Now}
	for _, o := range options {
		o(&s)
	}
	i := &Issuer{now: s.now}
	for _, alg := range s.algs {
		i.keys = append(i.keys, NewKey(alg))
	}
	if !s.offline {
		l, err := net.Listen("tcp", s.address)
		if err != nil {
			panic(fmt.Sprintf("authztest: listen: %v", err))
		}
		i.URL = "http://" + l.Addr().String()
		i.server = &http.Server{Handler: i.Handler(), ReadHeaderTimeout: 5 * time.Second}
		go func() { _ = i.server.Serve(l) }()
	}
	i.Name = i.URL
	if s.name != "" {
		i.Name = s.name
	}
	return i
}

// Close ends the issuer's server and every connection to it.
func (i *Issuer) Close() {
	if i.server != nil {
		_ = i.server.Close()
	}
}

// Rotate makes a new key for alg, publishes it and signs with it from now on.
// Earlier keys stay published until they are withdrawn.
func (i *Issuer) Rotate(alg string) *Key {
	k := NewKey(alg)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append([]*Key{k}, i.keys...)
	return k
}

// Withdraw takes the key out of the published set and of use.
func (i *Issuer) Withdraw(kid string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = slices.DeleteFunc(i.keys, func(k *Key) bool { return k.ID == kid })
}

// Add publishes a key made elsewhere. It does not become the signing key of
// an algorithm that has one already.
func (i *Issuer) Add(k *Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(i.keys, k)
}

// Key returns the key that signs with alg; empty: the issuer's first. It
// panics when there is none.
func (i *Issuer) Key(alg string) *Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range i.keys {
		if alg == "" || k.Alg == alg {
			return k
		}
	}
	panic("authztest: the issuer has no key for " + alg)
}

// JWKS returns the published key set (RFC 7517, section 5).
func (i *Issuer) JWKS() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.published != nil {
		return i.published
	}
	return KeySet(i.keys...)
}

// Publish replaces the published key set by b, whatever it is; nil returns to
// the issuer's own keys.
func (i *Issuer) Publish(b []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.published = b
}

// KeySet renders the public halves of keys as a JWK set.
func KeySet(keys ...*Key) []byte {
	set := struct {
		Keys []map[string]any `json:"keys"`
	}{Keys: []map[string]any{}}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.JWK())
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic(fmt.Sprintf("authztest: key set: %v", err))
	}
	return b
}

func randomID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b[:])
}
