package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/sharedsignals"
)

// signals receives security events.
type signals struct {
	receiver *sharedsignals.Receiver
	pollers  []*sharedsignals.Poller
	verified *sharedsignals.Seen // the states of verification events
}

// verificationTime is how long a verification event is remembered.
const verificationTime = 10 * time.Minute

// newSignals returns the receiver, and a poller of each event stream. revoker nil: the
// sidecar serves no HTTP, and has a write path for events only.
func newSignals(s Settings, verifier sharedsignals.Verifier, revoker sharedsignals.Revoker, ledger *authz.Revoker, log *slog.Logger, registry prometheus.Registerer) (*signals, error) {
	clock := authz.SystemClock{}
	g := &signals{verified: sharedsignals.NewSeen(verificationTime)}
	if revoker == nil {
		writer, err := httpapi.NewWriter(httpapi.WriterOptions{Issuers: s.RevocableIssuers(), Revoker: ledger, Timeout: s.API.WriteTimeout, Registry: registry, Logger: log, Clock: clock})
		if err != nil {
			return nil, err
		}
		revoker = writer
	}
	var err error
	g.receiver, err = sharedsignals.New(sharedsignals.Options{
		Config: s.API.Events, Verifier: verifier, Revoker: revoker, Registry: registry, Logger: log, Clock: clock,
		Verified: func(_, _, state string) { g.verified.Add(verificationID(state), clock.Now()) },
		Updated:  g.updated,
	})
	if err != nil || len(s.EventStreams) == 0 {
		return g, err
	}
	metrics, err := sharedsignals.NewPollMetrics(registry)
	if err != nil {
		return nil, err
	}
	for _, c := range s.EventStreams {
		p, err := sharedsignals.NewPoller(c, sharedsignals.PollerOptions{Receiver: g.receiver, Metrics: metrics, Logger: log, Clock: clock})
		if err != nil {
			return nil, err
		}
		g.pollers = append(g.pollers, p)
	}
	if strings.HasPrefix(s.StoreKind(), "sqlite") {
		log.Warn("event streams are polled into a SQLite store: only sidecars that share the file enforce the events; others need streams of their own")
	}
	return g, nil
}

func verificationID(state string) [32]byte { return sharedsignals.MessageID("verification", state) }

// received reports whether a verification event with the state has been received.
func (g *signals) received(state string) bool {
	return g.verified.Has(verificationID(state), time.Now())
}

// updated hands the new status of a stream to its poller.
func (g *signals) updated(transmitter, stream, status string) {
	for _, p := range g.pollers {
		if p.Transmitter() == transmitter {
			p.Updated(stream, status)
		}
	}
}

// poll polls the event streams until ctx ends.
func (c *core) poll(ctx context.Context, g *signals) {
	c.signals.Store(g)
	for _, p := range g.pollers {
		c.loops.Go(func() { c.loop(ctx, "event stream of "+p.Transmitter(), p.Run) })
	}
}

// streamConditions returns the state of each event stream that is polled.
func (c *core) streamConditions() []httpapi.Condition {
	g := c.signals.Load()
	if g == nil {
		return nil
	}
	var all []httpapi.Condition
	for _, p := range g.pollers {
		all = append(all, streamCondition(p.Transmitter(), p.State()))
	}
	return all
}

func streamCondition(transmitter string, s sharedsignals.PollState) httpapi.Condition {
	k := httpapi.Condition{Part: "events " + transmitter, State: httpapi.StateOK, Age: s.Age}
	const effect = ": what the transmitter reports does not revoke tokens here"
	switch {
	case s.Err != nil && s.Age < 0:
		degrade(&k, "the event stream has not been polled yet"+effect, s.Err)
	case s.Err != nil:
		degrade(&k, fmt.Sprintf("the event stream has not been polled for %s"+effect, rounded(s.Age)), s.Err)
	case s.Stream.Status != sharedsignals.StatusEnabled:
		degrade(&k, "the transmitter does not send the stream's events: its status is "+authz.QuoteShort(s.Stream.Status), nil)
	case s.Postponed > 0:
		degrade(&k, fmt.Sprintf("%d events cannot be processed yet; they come again", s.Postponed), errors.New("see the other parts: the store, and the keys of the transmitter"))
	case s.Age < 0:
		degrade(&k, "the event stream has not been polled yet", nil)
	}
	return k
}
