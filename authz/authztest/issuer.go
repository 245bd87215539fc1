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

// Issuer is an identity provider for tests and demonstrations. It signs any
// token, serves its key set and OpenID Connect discovery over HTTP, rotates and
// withdraws keys, and injects faults. It is safe for concurrent use.
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
	keys      []*Key // the first key of an algorithm signs
	published []byte // published instead of keys; nil publishes keys
	jwksFault *Fault
	metaFault *Fault

	jwksFetches, metaFetches atomic.Int64
}

// Option configures NewIssuer.
type Option func(*settings)

type settings struct {
	name    string
	address string
	offline bool
	algs    []string
	now     func() time.Time
}

// Named sets the issuer's "iss"; the default is its URL.
func Named(iss string) Option { return func(s *settings) { s.name = iss } }

// Address sets the address that the issuer listens on; the default is a free
// loopback port.
func Address(hostport string) Option { return func(s *settings) { s.address = hostport } }

// Offline makes an issuer without a server. Its key set is available from JWKS
// and Handler.
func Offline() Option { return func(s *settings) { s.offline = true } }

// Algorithms sets the algorithms of the issuer's keys; Mint signs with the first
// by default. The default is one ES256 key, which is fast to generate.
func Algorithms(algs ...string) Option { return func(s *settings) { s.algs = algs } }

// Clock sets the clock of Mint; the default is time.Now.
func Clock(now func() time.Time) Option { return func(s *settings) { s.now = now } }

// NewIssuer makes the keys and, unless Offline is given, starts the issuer's
// server, which Close ends. It panics on an unknown algorithm and on an address
// in use.
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

// Close stops the issuer's server and closes its connections.
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

// Withdraw removes the key: it is no longer published and no longer signs.
func (i *Issuer) Withdraw(kid string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = slices.DeleteFunc(i.keys, func(k *Key) bool { return k.ID == kid })
}

// Add publishes k. It signs only if the issuer has no other key of its
// algorithm.
func (i *Issuer) Add(k *Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(i.keys, k)
}

// Key returns the key that signs with alg; empty means the issuer's first key.
// It panics if there is none.
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

// Publish publishes b, valid or not, instead of the key set; nil publishes the
// issuer's keys again.
func (i *Issuer) Publish(b []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.published = b
}

// KeySet returns a JWK set of the public keys.
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
