package authztest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Transmitter is a transmitter of the Shared Signals Framework 1.0 for tests: its
// metadata, stream management and polling endpoint (RFC 8936), written from the
// specifications' texts. Its Issuer signs the events.
type Transmitter struct {
	*Issuer
	// URL is the transmitter's issuer identifier, and the address of its server.
	URL string
	// Token is the bearer token that its endpoints ask for.
	Token string
	// StreamID and Audience are those of its only stream, once it is created.
	StreamID, Audience string

	server *http.Server
	done   context.CancelFunc

	mu      sync.Mutex
	stream  map[string]any // its configuration; nil: none
	deleted bool           // a stream that nobody has created can be polled
	status  string
	events  map[string]string // not acknowledged, by jti
	order   []string
	acked   []string
	errs    map[string]SetError
	polls   []Poll
	hold    time.Duration // of a long poll
	fault   func(http.ResponseWriter, Poll) bool
	changed chan struct{} // closed when there are events
	tokens  int
}

// SetError is what a receiver has reported about a SET (RFC 8936, section 2.6).
type SetError struct{ Err, Description string }

// Poll is the body of a poll (RFC 8936, section 2.2).
type Poll struct {
	MaxEvents         *int                `json:"maxEvents"`
	ReturnImmediately bool                `json:"returnImmediately"`
	Ack               []string            `json:"ack"`
	SetErrs           map[string]SetError `json:"setErrs"`
}

// NewTransmitter returns a transmitter on a loopback port. The caller calls Close.
func NewTransmitter() *Transmitter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(fmt.Sprintf("authztest: listen: %v", err))
	}
	url := "http://" + l.Addr().String()
	t := &Transmitter{Issuer: NewIssuer(Offline(), Named(url)), URL: url, Token: "transmitter-" + randomID(), StreamID: "stream-" + randomID(), events: map[string]string{}, errs: map[string]SetError{}, changed: make(chan struct{})}
	t.Audience = "receiver/" + t.StreamID
	base, done := context.WithCancel(context.Background())
	t.done = done
	t.server = &http.Server{Handler: t.handler(), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return base }}
	go func() { _ = t.server.Serve(l) }()
	return t
}

// Close ends the transmitter.
func (t *Transmitter) Close() {
	t.done()
	_ = t.server.Close()
}

// Hold lets the transmitter keep polls waiting for events for up to d.
func (t *Transmitter) Hold(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hold = d
}

// Fail lets f answer polls. If f returns false, the transmitter answers as usual.
func (t *Transmitter) Fail(f func(w http.ResponseWriter, p Poll) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fault = f
}

// Event mints a security event token for the stream, with one event. subject is its
// sub_id.
func (t *Transmitter) Event(uri string, subject, payload map[string]any) (jti, raw string) {
	jti = "event-" + randomID()
	if payload == nil {
		payload = map[string]any{}
	}
	return jti, t.Mint(map[string]any{
		"jti": jti, "aud": t.Audience, "sub": nil, "exp": nil, "sub_id": subject, "events": map[string]any{uri: payload},
	}, Header("typ", "secevent+jwt"))
}

// Send has an event delivered by the next poll, and returns its jti.
func (t *Transmitter) Send(uri string, subject, payload map[string]any) string {
	jti, raw := t.Event(uri, subject, payload)
	t.Queue(jti, raw)
	return jti
}

// Queue has a token delivered by the next poll under the given jti.
func (t *Transmitter) Queue(jti, raw string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events[jti] = raw
	t.order = append(t.order, jti)
	close(t.changed)
	t.changed = make(chan struct{})
}

// Acked returns the events that are acknowledged.
func (t *Transmitter) Acked() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.acked)
}

// Errs returns the errors that are reported.
func (t *Transmitter) Errs() map[string]SetError {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.errs)
}

// Polls returns the polls that have arrived.
func (t *Transmitter) Polls() []Poll {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.polls)
}

// Tokens returns how many tokens its token endpoint has issued.
func (t *Transmitter) Tokens() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tokens
}

func (t *Transmitter) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", t.Handler()) // the issuer's
	mux.HandleFunc("GET /.well-known/ssf-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, map[string]any{
			"spec_version": "1_0", "issuer": t.URL, "jwks_uri": t.URL + "/jwks.json", "delivery_methods_supported": []string{"urn:ietf:rfc:8935", "urn:ietf:rfc:8936"},
			"configuration_endpoint": t.URL + "/ssf/stream", "status_endpoint": t.URL + "/ssf/status", "verification_endpoint": t.URL + "/ssf/verify",
			"add_subject_endpoint": t.URL + "/ssf/subjects:add", "remove_subject_endpoint": t.URL + "/ssf/subjects:remove", "default_subjects": "ALL",
		})
	})
	mux.HandleFunc("POST /token", t.issue)
	for pattern, serve := range map[string]http.HandlerFunc{
		"POST /ssf/stream": t.create, "GET /ssf/stream": t.read, "PATCH /ssf/stream": t.update, "PUT /ssf/stream": t.update, "DELETE /ssf/stream": t.remove,
		"GET /ssf/status": t.getStatus, "POST /ssf/status": t.setStatus, "POST /ssf/verify": t.verify, "POST /poll/{stream}": t.poll,
		"POST /ssf/subjects:add":    func(w http.ResponseWriter, r *http.Request) { t.subject(w, r, http.StatusOK) },
		"POST /ssf/subjects:remove": func(w http.ResponseWriter, r *http.Request) { t.subject(w, r, http.StatusNoContent) },
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+t.Token {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			serve(w, r)
		})
	}
	return mux
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(encode(v))
}

// issue is the token endpoint (RFC 6749, section 4.4), for the client "receiver".
func (t *Transmitter) issue(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	if id != "receiver" || secret != "a-secret-of-the-test" || r.FormValue("grant_type") != "client_credentials" {
		reply(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return
	}
	t.mu.Lock()
	t.tokens++
	t.mu.Unlock()
	reply(w, http.StatusOK, map[string]any{"access_token": t.Token, "token_type": "Bearer", "expires_in": 3600})
}

// body decodes the request and returns the stream_id, which must be that of the
// stream.
func (t *Transmitter) body(w http.ResponseWriter, r *http.Request) map[string]any {
	var v map[string]any
	if json.NewDecoder(r.Body).Decode(&v) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return nil
	}
	if v["stream_id"] != t.StreamID || t.stream == nil {
		w.WriteHeader(http.StatusNotFound)
		return nil
	}
	return v
}

func (t *Transmitter) create(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stream != nil {
		w.WriteHeader(http.StatusConflict)
		return
	}
	var want map[string]any
	if json.NewDecoder(r.Body).Decode(&want) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	t.stream = map[string]any{"stream_id": t.StreamID, "iss": t.URL, "aud": t.Audience, "min_verification_interval": 1}
	t.status, t.deleted = "enabled", false
	t.configure(want)
	reply(w, http.StatusCreated, t.stream)
}

func (t *Transmitter) configure(want map[string]any) {
	delivery, _ := want["delivery"].(map[string]any)
	switch {
	case delivery == nil && t.stream["delivery"] != nil:
	case delivery == nil || delivery["method"] == "urn:ietf:rfc:8936":
		t.stream["delivery"] = map[string]any{"method": "urn:ietf:rfc:8936", "endpoint_url": t.URL + "/poll/" + t.StreamID}
	default:
		t.stream["delivery"] = delivery
	}
	for _, name := range []string{"events_requested", "description"} {
		if want[name] != nil {
			t.stream[name] = want[name]
		}
	}
	t.stream["events_delivered"] = t.stream["events_requested"]
	if t.stream["events_delivered"] == nil {
		t.stream["events_delivered"] = []string{}
	}
}

func (t *Transmitter) read(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch id := r.FormValue("stream_id"); {
	case id == "" && t.stream == nil:
		reply(w, http.StatusOK, []any{})
	case id == "":
		reply(w, http.StatusOK, []any{t.stream})
	case id == t.StreamID && t.stream != nil:
		reply(w, http.StatusOK, t.stream)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (t *Transmitter) update(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change := t.body(w, r)
	if change == nil {
		return
	}
	if r.Method == http.MethodPut {
		for _, name := range []string{"delivery", "events_requested", "description"} {
			delete(t.stream, name)
		}
	}
	t.configure(change)
	reply(w, http.StatusOK, t.stream)
}

func (t *Transmitter) remove(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stream == nil || r.FormValue("stream_id") != t.StreamID {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	t.stream, t.deleted = nil, true
	w.WriteHeader(http.StatusNoContent)
}

func (t *Transmitter) getStatus(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stream == nil || r.FormValue("stream_id") != t.StreamID {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	reply(w, http.StatusOK, map[string]any{"stream_id": t.StreamID, "status": t.status})
}

func (t *Transmitter) setStatus(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if change := t.body(w, r); change != nil {
		t.status, _ = change["status"].(string)
		reply(w, http.StatusOK, change)
	}
}

func (t *Transmitter) verify(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	v := t.body(w, r)
	t.mu.Unlock()
	if v != nil {
		t.Send("https://schemas.openid.net/secevent/ssf/event-type/verification", t.streamSubject(), map[string]any{"state": v["state"]})
		w.WriteHeader(http.StatusNoContent)
	}
}

func (t *Transmitter) streamSubject() map[string]any {
	return map[string]any{"format": "opaque", "id": t.StreamID}
}

// Update sends a stream updated event (SSF 1.0, section 8.1.5).
func (t *Transmitter) Update(status, reason string) {
	t.mu.Lock()
	t.status = status
	t.mu.Unlock()
	t.Send("https://schemas.openid.net/secevent/ssf/event-type/stream-updated", t.streamSubject(), map[string]any{"status": status, "reason": reason})
}

func (t *Transmitter) subject(w http.ResponseWriter, r *http.Request, status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v := t.body(w, r); v != nil {
		if id, _ := v["subject"].(map[string]any); id["format"] == nil {
			status = http.StatusBadRequest
		}
		w.WriteHeader(status)
	}
}

// poll is the polling endpoint (RFC 8936, section 2).
func (t *Transmitter) poll(w http.ResponseWriter, r *http.Request) {
	var p Poll
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") || json.NewDecoder(r.Body).Decode(&p) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	t.mu.Lock()
	t.polls = append(t.polls, p)
	fault, hold := t.fault, t.hold
	known := r.PathValue("stream") == t.StreamID && !t.deleted
	t.mu.Unlock()
	if fault != nil && fault(w, p) {
		return
	}
	if !known {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	t.settle(p)
	var timeout <-chan time.Time
	if !p.ReturnImmediately && hold > 0 {
		timeout = time.After(hold)
	}
	for {
		sets, more, changed := t.pending(p)
		if len(sets) > 0 || timeout == nil {
			reply(w, http.StatusOK, map[string]any{"sets": sets, "moreAvailable": more})
			return
		}
		select {
		case <-changed:
		case <-timeout:
			timeout = nil
		case <-r.Context().Done():
			return
		}
	}
}

// settle forgets the events that are acknowledged or refused.
func (t *Transmitter) settle(p Poll) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, jti := range p.Ack {
		delete(t.events, jti)
		t.acked = append(t.acked, jti)
	}
	for jti, e := range p.SetErrs {
		delete(t.events, jti)
		t.errs[jti] = e
	}
}

// pending returns the events to deliver, and a channel that is closed when there are
// others.
func (t *Transmitter) pending(p Poll) (sets map[string]string, more bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sets = map[string]string{}
	for _, jti := range t.order {
		raw, waits := t.events[jti]
		if !waits {
			continue
		}
		if p.MaxEvents != nil && len(sets) >= *p.MaxEvents {
			more = true
			break
		}
		sets[jti] = raw
	}
	return sets, more, t.changed
}

// JSON encodes a value for a test.
func JSON(v any) []byte { return encode(v) }
