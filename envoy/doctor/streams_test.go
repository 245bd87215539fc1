package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/sharedsignals"
)

func TestStreamFindings(t *testing.T) {
	t.Parallel()
	tr := authztest.NewTransmitter()
	t.Cleanup(tr.Close)
	secret := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(secret, []byte(tr.Token+"\n"), 0o600))
	_, s, err := load(t, fmt.Sprintf("issuers: [{issuer: %q, audiences: [api]}]\nevent_streams: [{transmitter: %q, token_file: %q}]\n", tr.URL, tr.URL, secret), 0o600)
	require.NoError(t, err)
	findings := func() map[string]Status {
		var r Report
		r.Streams(t.Context(), s)
		out := map[string]Status{}
		for _, one := range r.Results() {
			out[one.ID] = one.Status
		}
		return out
	}
	assert.Equal(t, map[string]Status{"streams.found": Failure, "streams.store": Warning}, findings())

	c, err := sharedsignals.NewTransmitter(s.EventStreams[0].TransmitterConfig, 0, authz.SystemClock{}, nil)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	streams, err := c.Streams(t.Context())
	require.NoError(t, err)
	_, err = streams.Create(t.Context(), sharedsignals.Stream{})
	require.NoError(t, err)
	s.Store = "postgres://db/x"
	for id, status := range findings() {
		assert.Equal(t, OK, status, id)
	}
	_, err = streams.SetStatus(t.Context(), sharedsignals.StreamStatus{ID: tr.StreamID, Status: sharedsignals.StatusDisabled})
	require.NoError(t, err)
	assert.Equal(t, Failure, findings()["streams.enabled"])
}
