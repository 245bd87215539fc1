package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/config"
)

// networkTime bounds what `check --network` waits for, keys included.
const networkTime = 5 * time.Second

// ExampleRequest makes the request that a person describes as "METHOD URL",
// where the URL may be a path alone, with the token as its bearer credential.
func ExampleRequest(line string, headers map[string]string, token string) (*authz.Request, error) {
	method, target, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok {
		return nil, fmt.Errorf("--request %q: method and URL are needed, such as 'GET /orders'", line)
	}
	req := &authz.Request{Method: method, Scheme: "https", Path: target, Protocol: "HTTP/1.1"}
	if !strings.HasPrefix(target, "/") {
		u, err := url.Parse(target)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("--request %q: a path or an absolute URL is needed behind the method", line)
		}
		req.Scheme, req.Host, req.Path = u.Scheme, u.Host, strings.TrimPrefix(target, u.Scheme+"://"+u.Host)
		if req.Path == "" {
			req.Path = "/"
		}
	}
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	sort.Strings(names)
	given := false
	for _, name := range names {
		given = given || strings.EqualFold(name, "authorization")
		req.Headers = append(req.Headers, authz.Header{Name: strings.ToLower(name), Value: headers[name]})
	}
	if !given && token != "" {
		req.Headers = append(req.Headers, authz.Header{Name: "authorization", Value: "Bearer " + token})
	}
	return req, nil
}

// Explain tells step by step why the request would pass or not. Without
// network only files are read: keys that would have to be fetched, and whether
// the token is revoked, are skipped. An embedded store counts as network, since
// asking it opens it.
func Explain(ctx context.Context, s Settings, req *authz.Request, network bool) (_ authz.Explanation, err error) {
	log, registry, clock := slog.New(slog.DiscardHandler), prometheus.NewRegistry(), authz.SystemClock{}
	verifier, err := authz.NewVerifier(s.Issuers, authz.VerifierOptions{MaxTokenTTL: s.Revocation.MaxTokenTTL, Clock: clock, Logger: log})
	if err != nil {
		return authz.Explanation{}, err
	}
	defer verifier.Close()
	opaque, err := authz.NewIntrospections(s.Introspection, authz.IntrospectionOptions{MaxTokenTTL: s.Revocation.MaxTokenTTL, MaxStaleness: s.Revocation.MaxStaleness, Clock: clock})
	if err != nil {
		return authz.Explanation{}, err
	}
	defer opaque.Close()
	options, err := s.policyOptions(opaque.ByName(), authz.Unrecorded{}) // explaining uses up no DPoP proof
	if err != nil {
		return authz.Explanation{}, err
	}
	policy, err := authz.CompilePolicy(s.Routes, options)
	if err != nil {
		return authz.Explanation{}, err
	}
	e := authz.Explainer{Offline: !network}
	if network {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, networkTime)
		defer cancel()
		_ = verifier.Refresh(ctx) // the steps show what could not be fetched
		st, err := openStore(s, log, registry)
		if err != nil {
			return authz.Explanation{}, err
		}
		defer st.Close()
		e.Revocations = st
		if len(s.StatusLists.Hosts) > 0 {
			lists, err := authz.NewStatusLists(s.StatusLists, authz.StatusListOptions{Verifier: authz.Speakers{JWTVerifier: verifier, Revocations: st}, MaxStaleness: s.Revocation.MaxStaleness, Clock: clock})
			if err != nil {
				return authz.Explanation{}, err
			}
			defer lists.Close()
			e.Revocations = authz.All(st, lists)
		}
	}
	e.Authorizer = authz.NewAuthorizer(verifier, nil, e.Revocations, policy, clock)
	return e.Explain(ctx, req), nil
}

// TestPolicy runs the example requests in file against the routes of s.
func TestPolicy(ctx context.Context, s Settings, file string) (authz.PolicyTestReport, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return authz.PolicyTestReport{}, fmt.Errorf("policy tests: %w", err)
	}
	var tests authz.PolicyTests
	f := config.Parse(file, text, &tests)
	tests.Validate(f.At(""))
	if err := f.Err(); err != nil {
		return authz.PolicyTestReport{}, err
	}
	introspectors := authz.ValidateIntrospections(s.Introspection, s.Revocation.MaxStaleness, func(string, string, ...any) {}) // checked when s was loaded
	options, err := s.policyOptions(introspectors, authz.NewMemoryReplay(1000, authz.SystemClock{}))
	if err != nil {
		return authz.PolicyTestReport{}, err
	}
	policy, err := authz.CompilePolicy(s.Routes, options)
	if err != nil {
		return authz.PolicyTestReport{}, err
	}
	return authz.RunPolicyTests(ctx, policy, tests, authz.PolicyTestOptions{Issuers: s.Issuers}), nil
}
