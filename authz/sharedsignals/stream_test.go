package sharedsignals_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/sharedsignals"
)

// manage returns the stream management of a transmitter.
func manage(t *testing.T, tr *authztest.Transmitter) *sharedsignals.Streams {
	t.Helper()
	c := transmitter(t, sharedsignals.TransmitterConfig{Transmitter: tr.URL, TokenFile: secret(t, tr.Token)})
	streams, err := c.Streams(t.Context())
	require.NoError(t, err)
	return streams
}

func transmitter(t *testing.T, c sharedsignals.TransmitterConfig) *sharedsignals.Transmitter {
	t.Helper()
	out, err := sharedsignals.NewTransmitter(c, 10*time.Second, authz.SystemClock{}, nil)
	require.NoError(t, err)
	t.Cleanup(out.Close)
	return out
}

func any1(sharedsignals.Stream) bool { return true }

// The life of a stream (SSF 1.0, section 8).
func TestStreams(t *testing.T) {
	t.Parallel()
	tr := authztest.NewTransmitter()
	t.Cleanup(tr.Close)
	s := manage(t, tr)
	ctx := t.Context()
	assert.Equal(t, "1_0", s.Metadata.SpecVersion)
	all, err := s.List(ctx)
	require.NoError(t, err)
	assert.Empty(t, all)

	want := sharedsignals.Stream{EventsRequested: []string{sessionRevoked}, Delivery: &sharedsignals.Delivery{Method: sharedsignals.DeliveryPoll}, Description: "one"}
	got, err := s.Create(ctx, want)
	require.NoError(t, err)
	assert.Equal(t, tr.StreamID, got.ID)
	assert.Equal(t, sharedsignals.Audience{tr.Audience}, got.Audience, "one audience is text")
	assert.True(t, got.Polls())
	assert.Equal(t, tr.URL+"/poll/"+tr.StreamID, got.Delivery.Endpoint)
	assert.EqualValues(t, 1, got.MinVerificationInterval)
	var status *sharedsignals.StatusError
	_, err = s.Create(ctx, want)
	require.ErrorAs(t, err, &status)
	assert.Equal(t, http.StatusConflict, status.Status)

	got, err = s.Get(ctx, "", any1)
	require.NoError(t, err)
	assert.Equal(t, "one", got.Description)
	_, err = s.Get(ctx, "another", any1)
	require.ErrorAs(t, err, &status)
	assert.Equal(t, http.StatusNotFound, status.Status)
	got, err = s.Update(ctx, sharedsignals.Stream{ID: got.ID, Description: "two"})
	require.NoError(t, err)
	assert.Equal(t, "two", got.Description)
	assert.Equal(t, []string{sessionRevoked}, got.EventsRequested, "what is not changed stays")
	got, err = s.Replace(ctx, sharedsignals.Stream{ID: got.ID, Delivery: &sharedsignals.Delivery{Method: sharedsignals.DeliveryPush, Endpoint: "https://receiver.example/ssf/events"}})
	require.NoError(t, err)
	assert.False(t, got.Polls())
	assert.Empty(t, got.Description, "what is not given is gone")

	is, err := s.Status(ctx, got.ID)
	require.NoError(t, err)
	assert.Equal(t, sharedsignals.StatusEnabled, is.Status)
	is, err = s.SetStatus(ctx, sharedsignals.StreamStatus{ID: got.ID, Status: sharedsignals.StatusPaused, Reason: "maintenance"})
	require.NoError(t, err)
	assert.Equal(t, sharedsignals.StreamStatus{ID: got.ID, Status: "paused", Reason: "maintenance"}, is)
	user := map[string]any{"format": "email", "email": "alice@example.com"}
	assert.NoError(t, s.AddSubject(ctx, got.ID, user))
	assert.NoError(t, s.RemoveSubject(ctx, got.ID, user))
	assert.Error(t, s.AddSubject(ctx, got.ID, map[string]any{}))
	assert.NoError(t, s.Verify(ctx, got.ID, "a-state"))
	assert.NoError(t, s.Delete(ctx, got.ID))
	assert.Error(t, s.Delete(ctx, got.ID))
}

// A transmitter's documents do not choose where the token is sent, nor whose stream
// is managed.
func TestTransmitterIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		metadata string // $ is the server's URL
		streams  string
		says     string
	}{
		"another's metadata":   {`{"issuer":"https://other.example","configuration_endpoint":"$/s"}`, "", "the configuration of the transmitter"},
		"not JSON":             {`<html>`, "", "where the transmitter's metadata are needed"},
		"other host":           {`{"issuer":"$","configuration_endpoint":"https://other.example/s"}`, "", "add it to hosts"},
		"other port":           {`{"issuer":"$","configuration_endpoint":"http://127.0.0.1:1/s"}`, "", "add it to hosts"},
		"plain http":           {`{"issuer":"$","configuration_endpoint":"http://other.example/s"}`, "", "loopback"},
		"no URL":               {`{"issuer":"$","configuration_endpoint":"x"}`, "", "absolute https URL"},
		"no endpoint":          {`{"issuer":"$"}`, "", "has no configuration_endpoint"},
		"another's stream":     {`{"issuer":"$","configuration_endpoint":"$/s"}`, `[{"stream_id":"a","iss":"https://other.example"}]`, "the stream's iss"},
		"a stream without id":  {`{"issuer":"$","configuration_endpoint":"$/s"}`, `[{"iss":"$"}]`, "no stream_id"},
		"two streams":          {`{"issuer":"$","configuration_endpoint":"$/s"}`, `[{"stream_id":"a","iss":"$"},{"stream_id":"b","iss":"$"}]`, "name one"},
		"an object for a list": {`{"issuer":"$","configuration_endpoint":"$/s"}`, `{"stream_id":"a","iss":"$"}`, "with other members"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			server := httptest.NewServer(mux)
			t.Cleanup(server.Close)
			answer := func(text string) http.HandlerFunc {
				return func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					_, _ = w.Write([]byte(strings.ReplaceAll(text, "$", server.URL)))
				}
			}
			mux.HandleFunc("/.well-known/ssf-configuration", answer(c.metadata))
			mux.HandleFunc("/s", answer(c.streams))
			s, err := transmitter(t, sharedsignals.TransmitterConfig{Transmitter: server.URL, TokenFile: secret(t, "some-token")}).Streams(t.Context())
			if err == nil {
				_, err = s.Get(t.Context(), "", any1)
			}
			assert.ErrorContains(t, err, c.says)
		})
	}
}

// The metadata's path stands between host and path of the issuer (SSF 1.0, section
// 7.2.1).
func TestMetadataPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"": "/.well-known/ssf-configuration", "/": "/.well-known/ssf-configuration",
		"/tenant": "/.well-known/ssf-configuration/tenant", "/a/b/": "/.well-known/ssf-configuration/a/b",
	} {
		asked := make(chan string, 1)
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
		_, err := transmitter(t, sharedsignals.TransmitterConfig{Transmitter: server.URL + path, TokenFile: secret(t, "some-token")}).Metadata(t.Context())
		assert.Error(t, err)
		assert.Equal(t, want, <-asked)
		server.Close()
	}
}
