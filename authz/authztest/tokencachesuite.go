package authztest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"jwtbouncer/authz"
)

// TestTokenCache runs the contract of authz.TokenCache. The cache must have room
// for a thousand small tokens.
func TestTokenCache(t *testing.T, open func(t *testing.T) authz.TokenCache) {
	t.Helper()
	runCases(t, open(t), TokenCacheCases())
}

// TokenCacheCases are the cases that TestTokenCache runs.
func TokenCacheCases() []Case[authz.TokenCache] {
	return []Case[authz.TokenCache]{
		{"returns the token that was put", cachePut},
		{"never returns another token", cacheOthers},
		{"the token that was put last counts", cacheReplace},
		{"keeps no reference to the text it was asked for", cacheAlias},
		{"never returns another token, under concurrency", cacheConcurrent},
	}
}

func cacheGet(c authz.TokenCache, raw string, want *authz.Token) error {
	return errors.Join(cacheAsk(c.Peek, raw, want), cacheAsk(c.Get, raw, want), cacheAsk(c.Peek, raw, want))
}

func cacheAsk(ask func(string) (*authz.Token, bool), raw string, want *authz.Token) error {
	got, ok := ask(raw)
	switch {
	case got != want:
		return fmt.Errorf("%.20q: got %p, want %p", raw, got, want)
	case ok != (want != nil):
		return fmt.Errorf("%.20q: found %v, but the token is %p", raw, ok, got)
	}
	return nil
}

func cachePut(_ context.Context, c authz.TokenCache) error {
	t := &authz.Token{Raw: issuerFor("put")}
	if err := cacheGet(c, t.Raw, nil); err != nil {
		return err
	}
	c.Put(t)
	return errors.Join(cacheGet(c, t.Raw, t), cacheGet(c, strings.Clone(t.Raw), t))
}

func cacheOthers(_ context.Context, c authz.TokenCache) error {
	var bad collect
	raw := issuerFor("others")
	c.Put(&authz.Token{Raw: raw})
	for i, text := range append(oddTexts(), "", raw+" ", " "+raw, raw+"=", raw[1:], raw[:len(raw)-1], strings.ToUpper(raw), raw+raw) {
		if err := cacheGet(c, text, nil); err != nil {
			bad.addf("text %d: %w", i, err)
		}
	}
	return bad.err()
}

func cacheReplace(_ context.Context, c authz.TokenCache) error {
	first := &authz.Token{Raw: issuerFor("replace")}
	second := &authz.Token{Raw: first.Raw, Generation: 1}
	c.Put(first)
	c.Put(second)
	return cacheGet(c, first.Raw, second)
}

// cacheAlias asks with a text whose memory is reused, as a request's is.
func cacheAlias(_ context.Context, c authz.TokenCache) error {
	t := &authz.Token{Raw: issuerFor("alias")}
	buffer := []byte(t.Raw)
	alias := unsafe.String(&buffer[0], len(buffer))
	if err := cacheGet(c, alias, nil); err != nil {
		return err
	}
	c.Put(t)
	if err := cacheGet(c, alias, t); err != nil {
		return err
	}
	clear(buffer)
	return errors.Join(cacheGet(c, alias, nil), cacheGet(c, t.Raw, t))
}

func cacheConcurrent(_ context.Context, c authz.TokenCache) error {
	var bad collect
	var mu sync.Mutex
	var wg sync.WaitGroup
	prefix := issuerFor("concurrent")
	for range 4 {
		wg.Go(func() {
			for i := range 2000 {
				raw := fmt.Sprint(prefix, i%100)
				if t, ok := c.Get(raw); ok && (t == nil || t.Raw != raw) {
					mu.Lock()
					bad.addf("%d: another token", i)
					mu.Unlock()
				} else if !ok {
					c.Put(&authz.Token{Raw: raw})
				}
			}
		})
	}
	wg.Wait()
	return bad.err()
}
