package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/config"
	"jwtbouncer/authz/explain"
	"jwtbouncer/authz/introspect"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
	"jwtbouncer/authz/policytest"
	"jwtbouncer/authz/statuslist"
	"jwtbouncer/envoy/sidecar"
)

type checkCmd struct {
	Token   string            `arg:"" optional:"" default:"-" help:"The token; '-' (the default) reads it from standard input, where no other user can see it."`
	Request string            `default:"GET /" help:"Method and URL it would be presented with, such as 'POST https://api.example/orders'."`
	Header  map[string]string `help:"Further request headers, name=value."`
	Network bool              `help:"Keys may be fetched, and the store asked whether the token is revoked. Without it only files are read."`
	JSON    bool              `name:"json" help:"Print JSON."`
}

// Run implements the command.
func (k *checkCmd) Run(ctx context.Context, c *command, io *Process) error {
	s, err := c.settings(io)
	if err != nil {
		return err
	}
	token, err := readToken(k.Token, io.In)
	if err != nil {
		return err
	}
	req, err := exampleRequest(k.Request, k.Header, token)
	if err != nil {
		return usageError{err}
	}
	steps, err := explainRequest(ctx, s, req, k.Network)
	if err != nil {
		return err
	}
	if !(Printer{Out: io.Out, Err: io.Err, JSON: k.JSON}).Explanation(steps) {
		return ErrNo
	}
	return nil
}

// readToken returns the argument, or what standard input holds.
func readToken(arg string, stdin io.Reader) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	text, err := io.ReadAll(io.LimitReader(stdin, 64<<10))
	return strings.TrimSpace(string(text)), err
}

// networkTime bounds what `check --network` waits for, keys included.
const networkTime = 5 * time.Second

// exampleRequest makes the request that a person describes as "METHOD URL",
// where the URL may be a path alone, with the token as its bearer credential.
func exampleRequest(line string, headers map[string]string, token string) (*authz.Request, error) {
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

// explainRequest tells step by step why the request would pass or not. Without
// network only files are read: keys that would have to be fetched, and whether
// the token is revoked, are skipped. An embedded store counts as network, since
// asking it opens it.
func explainRequest(ctx context.Context, s sidecar.Settings, req *authz.Request, network bool) (_ explain.Explanation, err error) {
	log, registry, clock := slog.New(slog.DiscardHandler), prometheus.NewRegistry(), authz.SystemClock{}
	verifier, err := issuer.NewVerifier(s.Issuers, issuer.VerifierOptions{MaxTokenTTL: s.Revocation.MaxTokenTTL, Clock: clock, Logger: log})
	if err != nil {
		return explain.Explanation{}, err
	}
	defer verifier.Close()
	opaque, err := introspect.New(s.Introspection, introspect.Options{MaxTokenTTL: s.Revocation.MaxTokenTTL, MaxStaleness: s.Revocation.MaxStaleness, Clock: clock})
	if err != nil {
		return explain.Explanation{}, err
	}
	defer opaque.Close()
	options, err := s.PolicyOptions(opaque.ByName(), policy.Unrecorded{}) // explaining uses up no DPoP proof
	if err != nil {
		return explain.Explanation{}, err
	}
	policy, err := policy.Compile(s.Routes, options)
	if err != nil {
		return explain.Explanation{}, err
	}
	e := explain.Explainer{Offline: !network}
	if network {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, networkTime)
		defer cancel()
		_ = verifier.Refresh(ctx) // the steps show what could not be fetched
		st, err := sidecar.OpenStore(s, log, registry)
		if err != nil {
			return explain.Explanation{}, err
		}
		defer st.Close()
		e.Revocations = st
		if len(s.StatusLists.Hosts) > 0 {
			lists, err := statuslist.New(s.StatusLists, statuslist.Options{Verifier: issuer.RevocationAwareVerifier{Verifier: verifier, Revocations: st}, MaxStaleness: s.Revocation.MaxStaleness, Clock: clock})
			if err != nil {
				return explain.Explanation{}, err
			}
			defer lists.Close()
			e.Revocations = authz.All(st, lists)
		}
	}
	e.Authorizer = authz.NewAuthorizer(verifier, nil, e.Revocations, policy, clock)
	return e.Explain(ctx, req), nil
}

// testPolicy runs the example requests in file against the routes of s.
func testPolicy(ctx context.Context, s sidecar.Settings, file string) (policytest.Report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return policytest.Report{}, fmt.Errorf("policy tests: %w", err)
	}
	var tests policytest.Tests
	f := config.Parse(file, text, &tests)
	tests.Validate(f.At(""))
	if err := f.Err(); err != nil {
		return policytest.Report{}, err
	}
	introspectors := introspect.ValidateAll(s.Introspection, s.Revocation.MaxStaleness, func(string, string, ...any) {}) // checked when s was loaded
	options, err := s.PolicyOptions(introspectors, policy.NewMemoryReplay(1000, authz.SystemClock{}))
	if err != nil {
		return policytest.Report{}, err
	}
	policy, err := policy.Compile(s.Routes, options)
	if err != nil {
		return policytest.Report{}, err
	}
	return policytest.Run(ctx, policy, tests, policytest.Options{Issuers: s.Issuers}), nil
}
