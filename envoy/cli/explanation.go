package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"jwtbouncer/authz"
	"jwtbouncer/authz/explain"
	"jwtbouncer/authz/policytest"
)

// stepRecord is the JSON form of a step.
type stepRecord struct {
	Rule    string `json:"rule"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	Detail  string `json:"detail,omitempty"`
	// Keys are what could revoke the token; of the step about revocation.
	Keys []keyRecord `json:"keys,omitempty"`
}

type keyRecord struct {
	Kind    string `json:"kind"`
	Value   string `json:"value"`
	Revokes bool   `json:"revokes"`
}

// Explanation prints the steps of a check and reports whether the request
// would pass, as far as nothing was skipped.
func (p Printer) Explanation(x explain.Explanation) (passes bool) {
	steps := x.Steps
	var keys []keyRecord
	for _, k := range x.Keys {
		keys = append(keys, keyRecord{k.Kind.String(), k.Value, k.Revokes})
	}
	var refusal *authz.Step
	skipped := 0
	records := make([]stepRecord, len(steps))
	for i, s := range steps {
		records[i] = stepRecord{Rule: s.Rule, Outcome: string(s.Outcome), Detail: s.Detail}
		switch s.Outcome {
		case authz.Refused:
			records[i].Reason = s.Reason.String()
			if refusal == nil {
				refusal = &steps[i]
			}
		case authz.Skipped:
			skipped++
		}
	}
	passes = refusal == nil && len(steps) > 0
	if len(keys) > 0 {
		records[len(records)-1].Keys = keys
	}
	if p.JSON {
		doc := map[string]any{"passes": passes, "skipped": skipped, "steps": records}
		if refusal != nil {
			doc["reason"] = refusal.Reason.String()
		}
		_ = json.NewEncoder(p.Out).Encode(doc) // strings and numbers: only writing can fail, and then nobody reads
		return passes
	}
	marks := map[authz.Outcome]string{authz.Passed: "ok  ", authz.Refused: "NO  ", authz.Skipped: "?   "}
	for i, s := range steps {
		fmt.Fprintf(p.Out, "%s%-14s %s", marks[s.Outcome], s.Rule, safeText(s.Detail))
		if s.Outcome == authz.Refused {
			fmt.Fprintf(p.Out, " (%s)", s.Reason)
		}
		fmt.Fprintln(p.Out)
		for _, k := range records[i].Keys {
			note := ""
			if k.Revokes {
				note = "  which has been revoked"
			}
			fmt.Fprintf(p.Out, "%18s revocable by %s %s%s\n", "", k.Kind, strconv.Quote(k.Value), note)
		}
	}
	switch {
	case refusal != nil:
		fmt.Fprintf(p.Out, "\ndenied: %s: %s\n", refusal.Reason, safeText(refusal.Detail))
	case skipped > 0:
		fmt.Fprintf(p.Out, "\nwould pass, as far as could be seen; %d step(s) were skipped (--network looks at them)\n", skipped)
	default:
		fmt.Fprintln(p.Out, "\nallowed")
	}
	return passes
}

// PolicyTests prints the outcome of a file of policy tests and reports whether
// all of them passed.
func (p Printer) PolicyTests(r policytest.Report) bool {
	for _, t := range r.Results {
		if len(t.Wrong) == 0 {
			fmt.Fprintf(p.Out, "ok    %s\n", safeText(t.Name))
			continue
		}
		fmt.Fprintf(p.Out, "FAIL  %s\n", safeText(t.Name))
		for _, w := range t.Wrong {
			fmt.Fprintf(p.Out, "      %s\n", safeText(w))
		}
		if t.Detail != "" {
			fmt.Fprintf(p.Out, "      because: %s\n", safeText(t.Detail))
		}
	}
	fmt.Fprintf(p.Out, "%d passed, %d failed\n", len(r.Results)-r.Failed, r.Failed)
	if len(r.Untried) > 0 {
		fmt.Fprintf(p.Err, "no test reached: %s\n", strings.Join(r.Untried, ", "))
	}
	return r.Failed == 0
}

// safeText keeps what tokens and files say from steering the terminal.
func safeText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
