package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/explain"
	"jwtbouncer/authz/policy"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/store"
)

type checkCmd struct {
	outputFlag
	Token   string            `arg:"" optional:"" default:"-" help:"The token; '-' (default) reads it from standard input, which hides it from other users."`
	Request string            `default:"GET /" help:"Method and URL of the request, such as 'POST https://api.example/orders'."`
	Header  map[string]string `help:"Further request headers, name=value."`
	Network bool              `help:"Fetch keys, ask introspection endpoints and look up revocations. Without it, only files are read."`
}

// Help is shown by check --help.
func (*checkCmd) Help() string {
	return "It changes nothing, and needs no store. Exit codes: 0: the request would be allowed. 3: it would be denied. 5: nothing objects to it, but steps were skipped, such as the signature (keys that would have to be fetched) or the revocation: --network includes them."
}

// Run implements the command.
func (k *checkCmd) Run(ctx context.Context, c *command, p *Process) error {
	s, err := c.settings(p)
	if err != nil {
		return err
	}
	token, err := readToken(k.Token, p.In)
	if err != nil {
		return err
	}
	req, err := exampleRequest(k.Request, k.Header, token)
	if err != nil {
		return usage(err)
	}
	explanation, err := explainRequest(ctx, s, req, k.Network)
	if err != nil {
		return err
	}
	return k.report(p, explanation)
}

// exampleRequest returns the request that line describes as "METHOD URL", with
// token as its bearer credential. The URL may be a path alone.
func exampleRequest(line string, headers map[string]string, token string) (*authz.Request, error) {
	method, target, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok {
		return nil, fmt.Errorf("--request %q: method and URL are needed, such as 'GET /orders'", line)
	}
	req := &authz.Request{Method: method, Scheme: "https", Path: target, Protocol: "HTTP/1.1"}
	if !strings.HasPrefix(target, "/") {
		u, err := url.Parse(target)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("--request %q: after the method, a path or an absolute URL is needed", line)
		}
		req.Scheme, req.Host, req.Path = u.Scheme, u.Host, strings.TrimPrefix(target, u.Scheme+"://"+u.Host)
		if req.Path == "" {
			req.Path = "/"
		}
	}
	given := false
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		given = given || strings.EqualFold(name, "authorization")
		req.Headers = append(req.Headers, authz.Header{Name: strings.ToLower(name), Value: headers[name]})
	}
	if !given && token != "" {
		req.Headers = append(req.Headers, authz.Header{Name: "authorization", Value: "Bearer " + token})
	}
	return req, nil
}

// networkTime limits how long `check --network` waits, in total.
const networkTime = 5 * time.Second

// explainRequest explains the decision about the request. Without network it
// reads only files and skips the steps that would fetch keys or look up
// revocations. The embedded store counts as network, because a lookup opens it.
func explainRequest(ctx context.Context, s sidecar.Settings, req *authz.Request, network bool) (explain.Explanation, error) {
	log, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	rules, err := sidecar.NewRules(s, policy.Unrecorded{}, log, registry) // an explanation uses up no DPoP proof
	if err != nil {
		return explain.Explanation{}, err
	}
	defer rules.Close()
	e := explain.Explainer{Offline: !network, RevocableClaims: s.Revocation.Claims}
	if network {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, networkTime)
		defer cancel()
		_ = rules.Verifier.Refresh(ctx) // the steps show which keys are missing
		// A question must not create the store.
		if !store.Exists(s.Store) {
			e.NoStore = "the store " + s.Store + " does not exist yet, so nothing is revoked in it"
			e.Authorizer = authz.NewAuthorizer(rules.Verifier, nil, nil, rules.Policy, authz.SystemClock{})
			return e.Explain(ctx, req), nil
		}
		st, err := sidecar.OpenStore(s, log, registry)
		if err != nil {
			return explain.Explanation{}, err
		}
		defer st.Close()
		e.Revocations = st
		lists, err := rules.StatusLists(s, st, registry)
		if err != nil {
			return explain.Explanation{}, err
		}
		if lists != nil {
			defer lists.Close()
			e.Revocations = authz.All(st, lists)
		}
	}
	e.Authorizer = authz.NewAuthorizer(rules.Verifier, nil, e.Revocations, rules.Policy, authz.SystemClock{})
	return e.Explain(ctx, req), nil
}

// stepJSON is the JSON form of a step.
type stepJSON struct {
	Rule    string    `json:"rule"`
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
	Detail  string    `json:"detail,omitempty"`
	Keys    []keyJSON `json:"keys,omitempty"` // of the last step: the revocations that would match the token
}

type keyJSON struct {
	Kind    string `json:"kind"`
	Value   string `json:"value"`
	Revokes bool   `json:"revokes"` // the revocation is stored
}

// explanationJSON is the JSON form of an explanation.
type explanationJSON struct {
	Passes  bool       `json:"passes"` // no step refuses; steps may have been skipped
	Reason  string     `json:"reason,omitempty"`
	Skipped int        `json:"skipped"`
	Steps   []stepJSON `json:"steps"`

	refusal *authz.Step // the first
}

func newExplanation(x explain.Explanation) explanationJSON {
	out := explanationJSON{Steps: make([]stepJSON, len(x.Steps))}
	for i, s := range x.Steps {
		out.Steps[i] = stepJSON{Rule: s.Rule, Outcome: string(s.Outcome), Detail: s.Detail}
		switch s.Outcome {
		case authz.Refused:
			out.Steps[i].Reason = s.Reason.String()
			if out.refusal == nil {
				out.refusal, out.Reason = &x.Steps[i], s.Reason.String()
			}
		case authz.Skipped:
			out.Skipped++
		}
	}
	if len(out.Steps) > 0 {
		for _, k := range x.Keys {
			last := &out.Steps[len(out.Steps)-1]
			last.Keys = append(last.Keys, keyJSON{k.Kind.String(), k.Value, k.Revokes})
		}
	}
	out.Passes = out.refusal == nil && len(out.Steps) > 0
	return out
}

// report prints the steps of a decision. It returns ErrNo if one refuses the
// request, and ErrIncomplete if none does but some were skipped.
func (k *checkCmd) report(p *Process, x explain.Explanation) error {
	e := newExplanation(x)
	if err := k.print(p, e, e.table); err != nil {
		return err
	}
	switch {
	case !e.Passes:
		return ErrNo
	case e.Skipped > 0:
		return ErrIncomplete
	}
	return nil
}

func (e explanationJSON) table(w io.Writer) {
	marks := map[string]string{string(authz.Passed): "ok  ", string(authz.Refused): "NO  ", string(authz.Skipped): "?   "}
	for _, s := range e.Steps {
		fmt.Fprintf(w, "%s%-14s %s", marks[s.Outcome], s.Rule, printable(s.Detail))
		if s.Reason != "" {
			fmt.Fprintf(w, " (%s)", s.Reason)
		}
		fmt.Fprintln(w)
		for _, k := range s.Keys {
			note := ""
			if k.Revokes {
				note = "  (revoked)"
			}
			fmt.Fprintf(w, "%18s revocable by %s %s%s\n", "", k.Kind, strconv.Quote(k.Value), note)
		}
	}
	switch {
	case e.refusal != nil:
		fmt.Fprintf(w, "\ndenied: %s: %s\n", e.Reason, printable(e.refusal.Detail))
	case e.Skipped > 0:
		fmt.Fprintf(w, "\nallowed as far as checked; skipped %d step(s), which --network includes\n", e.Skipped)
	default:
		fmt.Fprintln(w, "\nallowed")
	}
}
