package authztest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"jwtbouncer/authz"
)

// PublisherSubject is a publisher under test.
type PublisherSubject struct {
	Publisher authz.Publisher
	// Tier is where other sidecars see published revocations.
	Tier authz.Tier
}

// TestPublisher runs the contract of authz.Publisher.
func TestPublisher(t *testing.T, open func(t *testing.T) PublisherSubject) {
	t.Helper()
	runCases(t, open(t), PublisherCases())
}

// PublisherCases are the cases that TestPublisher runs.
func PublisherCases() []Case[PublisherSubject] {
	return []Case[PublisherSubject]{
		{"others see each kind at once", publishKinds},
		{"nothing to publish", publishNothing},
		{"publishing again weakens nothing", publishAgain},
		{"publishes many at once", publishMany},
		{"does not keep the revocations", publishAliases},
		{"a caller who left", publishCanceled},
		{"others see every one, under concurrency", publishConcurrent},
	}
}

// stored returns a revocation as a ledger returns it.
func stored(kind authz.Kind, issuer, value string) authz.Revocation {
	r := of(kind, issuer, value)
	r.ID, r.RevokedAt, r.ExpiresAt = "1", time.Now(), time.Now().Add(time.Hour)
	if kind.ByTime() {
		r.NotBefore = time.Now()
	}
	return r
}

func (s PublisherSubject) sees(ctx context.Context, k token) error {
	return TierSubject{Tier: s.Tier}.expect(ctx, k, authz.Revoked)
}

func publishKinds(ctx context.Context, s PublisherSubject) error {
	var bad collect
	for _, kind := range kinds {
		iss := issuerFor("publish-" + kind.String())
		if !s.Publisher.Publish(ctx, []authz.Revocation{stored(kind, iss, "hit")}) {
			bad.addf("%s: not published", kind)
		}
		if err := s.sees(ctx, someone(iss).with(kind, "hit")); err != nil {
			bad.addf("%s: %w", kind, err)
		}
	}
	return bad.err()
}

func publishNothing(ctx context.Context, s PublisherSubject) error {
	if !s.Publisher.Publish(ctx, nil) {
		return errors.New("not published")
	}
	return nil
}

func publishAgain(ctx context.Context, s PublisherSubject) error {
	iss := issuerFor("again")
	strict := stored(authz.KindSID, iss, "hit")
	weak := strict
	weak.NotBefore = time.Unix(1, 0)
	for _, r := range []authz.Revocation{strict, weak, weak} {
		if !s.Publisher.Publish(ctx, []authz.Revocation{r}) {
			return errors.New("not published")
		}
		if err := s.sees(ctx, someone(iss).with(authz.KindSID, "hit")); err != nil {
			return err
		}
	}
	return nil
}

func publishMany(ctx context.Context, s PublisherSubject) error {
	var bad collect
	const n = 1200
	iss := issuerFor("many")
	many := make([]authz.Revocation, n)
	for i := range many {
		many[i] = stored(authz.KindJTI, iss, fmt.Sprint(i))
	}
	s.Publisher.Publish(ctx, many) // a slow publisher may take the rest into its queue
	for i := range n {
		if err := eventually(ctx, func() error { return s.sees(ctx, someone(iss).with(authz.KindJTI, fmt.Sprint(i))) }); err != nil {
			bad.addf("%d: %w", i, err)
		}
	}
	return bad.err()
}

// publishAliases changes the revocations as soon as Publish has returned.
func publishAliases(ctx context.Context, s PublisherSubject) error {
	iss := issuerFor("aliases")
	rs := []authz.Revocation{stored(authz.KindJTI, iss, "hit")}
	gone, cancel := context.WithCancel(ctx)
	cancel() // so that the work is left to the background
	s.Publisher.Publish(gone, rs)
	rs[0] = stored(authz.KindJTI, iss, "another")
	return eventually(ctx, func() error { return s.sees(ctx, someone(iss).with(authz.KindJTI, "hit")) })
}

// publishCanceled: a revocation is stored when it is published, so it must not
// get lost with its caller.
func publishCanceled(ctx context.Context, s PublisherSubject) error {
	iss := issuerFor("canceled")
	gone, cancel := context.WithCancel(ctx)
	cancel()
	s.Publisher.Publish(gone, []authz.Revocation{stored(authz.KindJTI, iss, "hit")})
	return eventually(ctx, func() error { return s.sees(ctx, someone(iss).with(authz.KindJTI, "hit")) })
}

func publishConcurrent(ctx context.Context, s PublisherSubject) error {
	var bad collect
	var mu sync.Mutex
	var wg sync.WaitGroup
	iss := issuerFor("concurrent")
	for w := range 6 {
		wg.Go(func() {
			for i := range 15 {
				value := fmt.Sprintf("%d-%d", w, i)
				s.Publisher.Publish(ctx, []authz.Revocation{stored(authz.KindJTI, iss, value)})
				if err := eventually(ctx, func() error { return s.sees(ctx, someone(iss).with(authz.KindJTI, value)) }); err != nil {
					mu.Lock()
					bad.addf("%s: %w", value, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return bad.err()
}
