package authztest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"jwtbouncer/authz"
)

// FillerSubject is a filler under test.
type FillerSubject struct {
	Filler interface {
		authz.Tier
		authz.Filler
	}
}

// TestFiller runs the contract of authz.Filler.
func TestFiller(t *testing.T, open func(t *testing.T) FillerSubject) {
	t.Helper()
	runCases(t, open(t), FillerCases())
}

// FillerCases are the cases that TestFiller runs.
func FillerCases() []Case[FillerSubject] {
	return []Case[FillerSubject]{
		{"learns that a token is revoked", fillRevoked},
		{"learns that a token is not revoked", fillNotRevoked},
		{"revoked wins over not revoked", fillBoth},
		{"learns nothing about other tokens", fillOthers},
		{"learns nothing about other questions", fillQuestions},
		{"learns nothing from Unknown", fillUnknown},
		{"does not believe what is too old", fillTooOld},
		{"does not keep the query's keys", fillKeys},
		{"does not block", fillBlocks},
	}
}

// fill begins a fill and hands over the verdict.
func (s FillerSubject) fill(ctx context.Context, q *authz.Query, v authz.Verdict) error {
	mark, ok := s.Filler.Begin(ctx, q)
	if !ok {
		return errors.New("cannot be filled")
	}
	s.Filler.Fill(*q, v, mark)
	return nil
}

// learned fills until the tier answers with the verdict. Fills may be dropped.
func (s FillerSubject) learned(ctx context.Context, q *authz.Query, v authz.Verdict) error {
	return eventually(ctx, func() error {
		if err := s.fill(ctx, q, v); err != nil {
			return err
		}
		return s.answers(ctx, q, v)
	})
}

func (s FillerSubject) answers(ctx context.Context, q *authz.Query, want authz.Verdict) error {
	v, err := s.Filler.Lookup(ctx, q)
	if err == nil && v != want {
		err = fmt.Errorf("%s, want %s", v, want)
	}
	return err
}

func fillRevoked(ctx context.Context, s FillerSubject) error {
	return s.learned(ctx, someone(issuerFor("revoked")).query(), authz.Revoked)
}

func fillNotRevoked(ctx context.Context, s FillerSubject) error {
	return s.learned(ctx, someone(issuerFor("good")).query(), authz.NotRevoked)
}

func fillBoth(ctx context.Context, s FillerSubject) error {
	q := someone(issuerFor("both")).query()
	if err := s.learned(ctx, q, authz.NotRevoked); err != nil {
		return err
	}
	if err := s.learned(ctx, q, authz.Revoked); err != nil {
		return err
	}
	if err := s.fill(ctx, q, authz.NotRevoked); err != nil {
		return err
	}
	// A later fill shows that this one has been made.
	if err := s.learned(ctx, someone(issuerFor("after")).query(), authz.NotRevoked); err != nil {
		return err
	}
	return s.answers(ctx, q, authz.Revoked)
}

func fillOthers(ctx context.Context, s FillerSubject) error {
	var bad collect
	for _, v := range []authz.Verdict{authz.Revoked, authz.NotRevoked} {
		k := someone(issuerFor("others"))
		if err := s.learned(ctx, k.query(), v); err != nil {
			return err
		}
		other := k // all keys but the token's own are the same
		other.raw = "another.token"
		if err := s.answers(ctx, other.query(), authz.Unknown); err != nil {
			bad.addf("%s of another token: %w", v, err)
		}
	}
	return bad.err()
}

// fillQuestions asks about one token in other ways than the one that was filled.
func fillQuestions(ctx context.Context, s FillerSubject) error {
	var bad collect
	for _, v := range []authz.Verdict{authz.Revoked, authz.NotRevoked} {
		q := someone(issuerFor("questions")).query()
		if err := s.learned(ctx, q, v); err != nil {
			return err
		}
		for name, change := range map[string]func(*authz.Query){
			"another key":  func(q *authz.Query) { q.Keys = append([]authz.Key{{1}}, q.Keys...) },
			"one key less": func(q *authz.Query) { q.Keys = q.Keys[1:] },
			"another iat":  func(q *authz.Query) { q.IssuedAt-- },
			"another exp":  func(q *authz.Query) { q.Expires++ },
			"another jti":  func(q *authz.Query) { q.ID += "2" },
			"a status":     func(q *authz.Query) { q.Status = &authz.StatusRef{} },
		} {
			other := *q
			change(&other)
			if err := s.answers(ctx, &other, authz.Unknown); err != nil {
				bad.addf("%s with %s: %w", v, name, err)
			}
		}
	}
	return bad.err()
}

func fillUnknown(ctx context.Context, s FillerSubject) error {
	q := someone(issuerFor("unknown")).query()
	if err := s.fill(ctx, q, authz.Unknown); err != nil {
		return err
	}
	if err := s.learned(ctx, someone(issuerFor("after")).query(), authz.NotRevoked); err != nil {
		return err
	}
	return s.answers(ctx, q, authz.Unknown)
}

// fillTooOld hands over a verdict from before the machine was started.
func fillTooOld(ctx context.Context, s FillerSubject) error {
	q := someone(issuerFor("old")).query()
	s.Filler.Fill(*q, authz.NotRevoked, -time.Hour)
	if err := s.learned(ctx, someone(issuerFor("after")).query(), authz.NotRevoked); err != nil {
		return err
	}
	return s.answers(ctx, q, authz.Unknown)
}

// fillKeys changes the keys of a query as soon as Fill has returned.
func fillKeys(ctx context.Context, s FillerSubject) error {
	iss := issuerFor("keys")
	for range 50 {
		q := someone(iss).query()
		if err := s.fill(ctx, q, authz.NotRevoked); err != nil {
			return err
		}
		clear(q.Keys)
	}
	return s.learned(ctx, someone(iss).query(), authz.NotRevoked)
}

func fillBlocks(ctx context.Context, s FillerSubject) error {
	iss := issuerFor("blocks")
	start := time.Now()
	for range 10_000 {
		if err := s.fill(ctx, someone(iss).query(), authz.NotRevoked); err != nil {
			return err
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		return fmt.Errorf("10,000 fills took %s", took)
	}
	return s.learned(ctx, someone(issuerFor("after")).query(), authz.NotRevoked)
}
