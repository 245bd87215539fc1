package sharedsignals

import (
	"context"
	"fmt"
	"net/url"
	"slices"

	"jwtbouncer/authz"
)

// Location says what to poll, and what comes.
type Location struct {
	Endpoint  *url.URL
	Audiences []string // of the events; never empty
	// Status is the stream's. Its members are empty if the transmitter does not tell.
	Status StreamStatus
}

// Locate finds the stream of c by way of t. With a configured URL it asks nobody.
func (c StreamConfig) Locate(ctx context.Context, t *Transmitter) (Location, error) {
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		return Location{Endpoint: u, Audiences: c.Audiences}, err
	}
	streams, err := t.Streams(ctx)
	if err != nil {
		return Location{}, err
	}
	stream, err := streams.Get(ctx, c.StreamID, Stream.Polls)
	switch {
	case err != nil:
		return Location{}, err
	case !stream.Polls():
		return Location{}, fmt.Errorf("the stream %s is not polled: its delivery method is not %s", stream.ID, DeliveryPoll)
	}
	var l Location
	if l.Audiences, err = c.audiencesOf(stream); err != nil {
		return Location{}, err
	}
	if l.Endpoint, err = t.endpoint("endpoint_url", stream.Delivery.Endpoint); err != nil {
		return Location{}, err
	}
	if streams.Metadata.Status != "" {
		l.Status, err = streams.Status(ctx, stream.ID)
	}
	return l, err
}

// audiencesOf returns the audiences of the stream's events. The transmitter names
// them (SSF 1.0, section 8.1.1), and the configuration may narrow them.
func (c StreamConfig) audiencesOf(stream Stream) ([]string, error) {
	own := slices.DeleteFunc(slices.Clone([]string(stream.Audience)), func(aud string) bool {
		return aud == "" || len(c.Audiences) > 0 && !slices.Contains(c.Audiences, aud)
	})
	if len(own) == 0 { // each event would be refused, and the transmitter would forget it
		return nil, fmt.Errorf("the stream %s has the aud %s, and none that is accepted: see audiences of event_streams", stream.ID, authz.QuoteShort(fmt.Sprint([]string(stream.Audience))))
	}
	return own, nil
}
