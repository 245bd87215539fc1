package sharedsignals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// Delivery methods of SSF 1.0, section 6.1.
const (
	DeliveryPush = "urn:ietf:rfc:8935"
	DeliveryPoll = "urn:ietf:rfc:8936"
)

// Stream is the configuration of an event stream (SSF 1.0, section 8.1.1).
type Stream struct {
	ID                      string    `json:"stream_id,omitzero"`
	Issuer                  string    `json:"iss,omitzero"`
	Audience                Audience  `json:"aud,omitzero"`
	EventsSupported         []string  `json:"events_supported,omitzero"`
	EventsRequested         []string  `json:"events_requested,omitzero"`
	EventsDelivered         []string  `json:"events_delivered,omitzero"`
	Delivery                *Delivery `json:"delivery,omitzero"`
	MinVerificationInterval int64     `json:"min_verification_interval,omitzero"` // seconds; 0: none
	InactivityTimeout       int64     `json:"inactivity_timeout,omitzero"`        // seconds; 0: none
	Description             string    `json:"description,omitzero"`
}

// Polls reports whether the stream's events are polled.
func (s Stream) Polls() bool { return s.Delivery != nil && s.Delivery.Method == DeliveryPoll }

// Delivery says how events are delivered. The authorization_header of a push stream
// is a secret and not read.
type Delivery struct {
	Method   string `json:"method"`
	Endpoint string `json:"endpoint_url,omitzero"`
}

// Audience is one audience or several: text, or a list of texts (RFC 7519, section
// 4.1.3).
type Audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *Audience) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = Audience{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// Status of a stream (SSF 1.0, section 8.1.2).
const (
	StatusEnabled  = "enabled"
	StatusPaused   = "paused"   // events are held
	StatusDisabled = "disabled" // events are lost
)

// StreamStatus is the status of a stream.
type StreamStatus struct {
	ID     string `json:"stream_id"`
	Status string `json:"status"`
	Reason string `json:"reason,omitzero"`
}

// Streams manages the streams of one receiver at one transmitter (SSF 1.0, section
// 8).
type Streams struct {
	t *Transmitter
	// Metadata are those of the transmitter.
	Metadata Metadata
}

// Streams fetches the transmitter's metadata and returns its management API.
func (t *Transmitter) Streams(ctx context.Context) (*Streams, error) {
	m, err := t.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	return &Streams{t, m}, nil
}

// List returns all streams of this receiver (SSF 1.0, section 8.1.1.2).
func (s *Streams) List(ctx context.Context) ([]Stream, error) {
	u, err := s.t.endpoint("configuration_endpoint", s.Metadata.Configuration)
	if err != nil {
		return nil, err
	}
	var streams []Stream
	if _, err := s.t.call(ctx, http.MethodGet, u, nil, &streams, maxDocument); err != nil {
		return nil, err
	}
	for _, one := range streams {
		if err := s.check(one); err != nil {
			return nil, err
		}
	}
	return streams, nil
}

// Get returns one stream (SSF 1.0, section 8.1.1.2). Without id it is the only
// stream of this receiver for which want returns true.
func (s *Streams) Get(ctx context.Context, id string, want func(Stream) bool) (Stream, error) {
	if id != "" {
		u, err := s.withID("configuration_endpoint", s.Metadata.Configuration, id)
		if err != nil {
			return Stream{}, err
		}
		return s.stream(ctx, http.MethodGet, u, nil)
	}
	streams, err := s.List(ctx)
	if err != nil {
		return Stream{}, err
	}
	streams = slices.DeleteFunc(streams, func(one Stream) bool { return !want(one) })
	switch len(streams) {
	case 0:
		return Stream{}, fmt.Errorf("there is no such stream of this receiver at %s; create it with: jwt-bouncer streams create", s.t.cfg.Transmitter)
	case 1:
		return streams[0], nil
	}
	return Stream{}, fmt.Errorf("this receiver has %d such streams at %s; name one by its stream_id", len(streams), s.t.cfg.Transmitter)
}

// Create creates a stream (SSF 1.0, section 8.1.1.1).
func (s *Streams) Create(ctx context.Context, want Stream) (Stream, error) {
	return s.configure(ctx, http.MethodPost, want)
}

// Update changes the members of a stream that change has (SSF 1.0, section
// 8.1.1.3).
func (s *Streams) Update(ctx context.Context, change Stream) (Stream, error) {
	return s.configure(ctx, http.MethodPatch, change)
}

// Replace replaces all that the receiver may choose of a stream (SSF 1.0, section
// 8.1.1.4).
func (s *Streams) Replace(ctx context.Context, want Stream) (Stream, error) {
	return s.configure(ctx, http.MethodPut, want)
}

func (s *Streams) configure(ctx context.Context, method string, want Stream) (Stream, error) {
	u, err := s.t.endpoint("configuration_endpoint", s.Metadata.Configuration)
	if err != nil {
		return Stream{}, err
	}
	return s.stream(ctx, method, u, want)
}

func (s *Streams) stream(ctx context.Context, method string, u *url.URL, body any) (Stream, error) {
	var got Stream
	status, err := s.t.call(ctx, method, u, body, &got, maxDocument)
	if err != nil {
		return Stream{}, err
	}
	if status == http.StatusAccepted {
		return Stream{}, ErrAccepted
	}
	return got, s.check(got)
}

// ErrAccepted says that the transmitter will decide about a change later (status 202).
var ErrAccepted = errors.New("the transmitter has accepted the change and not made it yet; repeat the command later to see whether it has")

// check refuses the stream of another issuer (SSF 1.0, section 8.1.1.1).
func (s *Streams) check(got Stream) error {
	switch {
	case got.Issuer != s.Metadata.Issuer:
		return fmt.Errorf("the stream's iss is not %s, whose configuration was read", s.Metadata.Issuer)
	case got.ID == "":
		return errors.New("the transmitter's stream has no stream_id")
	}
	return nil
}

// Delete deletes a stream (SSF 1.0, section 8.1.1.5).
func (s *Streams) Delete(ctx context.Context, id string) error {
	u, err := s.withID("configuration_endpoint", s.Metadata.Configuration, id)
	if err != nil {
		return err
	}
	_, err = s.t.call(ctx, http.MethodDelete, u, nil, nil, maxDocument)
	return err
}

// Status returns the status of a stream (SSF 1.0, section 8.1.2.1).
func (s *Streams) Status(ctx context.Context, id string) (StreamStatus, error) {
	u, err := s.withID("status_endpoint", s.Metadata.Status, id)
	if err != nil {
		return StreamStatus{}, err
	}
	return s.status(ctx, http.MethodGet, u, nil)
}

// SetStatus changes the status of a stream (SSF 1.0, section 8.1.2.2).
func (s *Streams) SetStatus(ctx context.Context, want StreamStatus) (StreamStatus, error) {
	u, err := s.t.endpoint("status_endpoint", s.Metadata.Status)
	if err != nil {
		return StreamStatus{}, err
	}
	return s.status(ctx, http.MethodPost, u, want)
}

func (s *Streams) status(ctx context.Context, method string, u *url.URL, body any) (StreamStatus, error) {
	var got StreamStatus
	status, err := s.t.call(ctx, method, u, body, &got, maxDocument)
	switch {
	case err != nil:
		return StreamStatus{}, err
	case status == http.StatusAccepted:
		return StreamStatus{}, ErrAccepted
	case got.Status != StatusEnabled && got.Status != StatusPaused && got.Status != StatusDisabled:
		return StreamStatus{}, errors.New("the transmitter's stream has no status of SSF 1.0, section 8.1.2")
	}
	return got, nil
}

// Verify asks for a verification event with the given state (SSF 1.0, section
// 8.1.4.2).
func (s *Streams) Verify(ctx context.Context, id, state string) error {
	return s.post(ctx, "verification_endpoint", s.Metadata.Verification, map[string]any{"stream_id": id, "state": state})
}

// AddSubject adds a subject identifier (RFC 9493) to a stream (SSF 1.0, section
// 8.1.3.2).
func (s *Streams) AddSubject(ctx context.Context, id string, subject map[string]any) error {
	return s.post(ctx, "add_subject_endpoint", s.Metadata.AddSubject, map[string]any{"stream_id": id, "subject": subject})
}

// RemoveSubject removes a subject identifier from a stream (SSF 1.0, section
// 8.1.3.3).
func (s *Streams) RemoveSubject(ctx context.Context, id string, subject map[string]any) error {
	return s.post(ctx, "remove_subject_endpoint", s.Metadata.RemoveSubject, map[string]any{"stream_id": id, "subject": subject})
}

func (s *Streams) post(ctx context.Context, name, endpoint string, body any) error {
	u, err := s.t.endpoint(name, endpoint)
	if err == nil {
		_, err = s.t.call(ctx, http.MethodPost, u, body, nil, maxDocument)
	}
	return err
}

// withID returns an endpoint's URL with the parameter stream_id.
func (s *Streams) withID(name, endpoint, id string) (*url.URL, error) {
	u, err := s.t.endpoint(name, endpoint)
	if err != nil {
		return nil, err
	}
	q := u.Query()
	q.Set("stream_id", id)
	u.RawQuery = q.Encode()
	return u, nil
}

// EventTypes returns the URIs of the event types that revoke something, sorted.
func EventTypes() []string {
	var out []string
	for uri, effect := range effects {
		if effect != noEffect {
			out = append(out, uri)
		}
	}
	slices.Sort(out)
	return out
}
