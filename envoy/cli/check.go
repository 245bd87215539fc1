package cli

import (
	"context"
	"encoding/json"
	"fmt"
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
)

type checkCmd struct {
	Token   string            `arg:"" optional:"" default:"-" help:"The token; '-' (default) reads it from standard input, which hides it from other users."`
	Request string            `default:"GET /" help:"Method and URL of the request, such as 'POST https://api.example/orders'."`
	Header  map[string]string `help:"Further request headers, name=value."`
	Network bool              `help:"Fetch keys, ask introspection endpoints and look up revocations. Without it, only files are read."`
	JSON    bool              `name:"json" help:"Print JSON."`
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
	return p.printExplanation(explanation, k.JSON)
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

// printExplanation prints the steps of a decision. It returns ErrNo unless the
// request passes all steps that were not skipped.
func (p *Process) printExplanation(x explain.Explanation, asJSON bool) error {
	var refusal *authz.Step
	skipped := 0
	all := make([]stepJSON, len(x.Steps))
	for i, s := range x.Steps {
		all[i] = stepJSON{Rule: s.Rule, Outcome: string(s.Outcome), Detail: s.Detail}
		switch s.Outcome {
		case authz.Refused:
			all[i].Reason = s.Reason.String()
			if refusal == nil {
				refusal = &x.Steps[i]
			}
		case authz.Skipped:
			skipped++
		}
	}
	if len(all) > 0 {
		for _, k := range x.Keys {
			last := &all[len(all)-1]
			last.Keys = append(last.Keys, keyJSON{k.Kind.String(), k.Value, k.Revokes})
		}
	}
	passes := refusal == nil && len(all) > 0
	var answer error
	if !passes {
		answer = ErrNo
	}
	if asJSON {
		doc := map[string]any{"passes": passes, "skipped": skipped, "steps": all}
		if refusal != nil {
			doc["reason"] = refusal.Reason.String()
		}
		_ = json.NewEncoder(p.Out).Encode(doc) // strings and numbers: only writing can fail
		return answer
	}
	marks := map[authz.Outcome]string{authz.Passed: "ok  ", authz.Refused: "NO  ", authz.Skipped: "?   "}
	for i, s := range x.Steps {
		fmt.Fprintf(p.Out, "%s%-14s %s", marks[s.Outcome], s.Rule, printable(s.Detail))
		if s.Outcome == authz.Refused {
			fmt.Fprintf(p.Out, " (%s)", s.Reason)
		}
		fmt.Fprintln(p.Out)
		for _, k := range all[i].Keys {
			note := ""
			if k.Revokes {
				note = "  (revoked)"
			}
			fmt.Fprintf(p.Out, "%18s revocable by %s %s%s\n", "", k.Kind, strconv.Quote(k.Value), note)
		}
	}
	switch {
	case refusal != nil:
		fmt.Fprintf(p.Out, "\ndenied: %s: %s\n", refusal.Reason, printable(refusal.Detail))
	case skipped > 0:
		fmt.Fprintf(p.Out, "\nallowed as far as checked; skipped %d step(s), which --network includes\n", skipped)
	default:
		fmt.Fprintln(p.Out, "\nallowed")
	}
	return answer
}
