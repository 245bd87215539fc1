package doctor

import (
	"context"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/sharedsignals"
	"jwtbouncer/envoy/sidecar"
)

// Streams examines the event streams that are polled. It takes no event.
func (r *Report) Streams(ctx context.Context, s sidecar.Settings) {
	for _, c := range s.EventStreams {
		r.stream(ctx, c)
		r.expect(!strings.HasPrefix(s.StoreKind(), "sqlite"), "streams.store", c.Transmitter, "the store is a SQLite file, and an event reaches one sidecar only")
	}
}

func (r *Report) stream(ctx context.Context, c sharedsignals.StreamConfig) {
	t, err := sharedsignals.NewTransmitter(c.TransmitterConfig, 10*time.Second, authz.SystemClock{}, nil)
	if err != nil {
		r.find(Failure, "streams.found", c.Transmitter, "%v", err)
		return
	}
	defer t.Close()
	l, err := c.Locate(ctx, t)
	switch {
	case err != nil:
		r.find(Failure, "streams.found", c.Transmitter, "%v", err)
		return
	case c.URL != "":
		r.unknown("streams.found", c.Transmitter, "a URL is configured, and only sidecars poll it")
		return
	}
	r.pass("streams.found", c.Transmitter)
	enabled := l.Status.Status == "" || l.Status.Status == sharedsignals.StatusEnabled
	r.expect(enabled, "streams.enabled", c.Transmitter, "its status is %s (%s)", authz.QuoteShort(l.Status.Status), authz.QuoteShort(l.Status.Reason))
}
