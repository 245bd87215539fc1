package page

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
)

// now is the part of the page that changes by itself.
type now struct {
	Name, Version string
	Status        string // httpapi.Health.Status
	State         string // of the headline: good, warning or bad
	Headline      string // what callers get
	Faults        []string
	Lately        string // what callers got in the last seconds; "": not measured yet
	Sources       []source
	Span          span
	Spans         []span
	Charts        []chart
	Reasons       []reasonRow
	Routes        []row
	Issuers       []row
}

// source is something that decisions rest on.
type source struct {
	Name, About string
	State       string // good, warning or bad
	Word        string // the state in one word
	Age, Limit  string
	Reason      string // what is wrong; "": nothing
}

type reasonRow struct {
	Reason, Outcome string
	Count           float64
	Rate            string
}

// look returns the state of this moment.
func (p *page) look(s span) now {
	health, m := p.api.Health(), p.take()
	points := s.points(p.series)
	v := now{Name: p.api.Options().Name, Version: m.version, Status: health.Status, Span: s, Spans: spans, Charts: charts(s, points), Routes: slices.DeleteFunc(m.routes, func(r row) bool { return r == row{} }), Issuers: m.issuers}
	v.say(health)
	last := p.series.window(1, 1)[0]
	v.Lately = lately(last)
	for _, c := range health.Conditions {
		if c.Part == "keys" && len(health.Conditions) > 1 && strings.HasPrefix(health.Conditions[len(health.Conditions)-1].Part, issuerPart) {
			continue // every issuer has a row of its own
		}
		v.Sources = append(v.Sources, newSource(c, m.entries))
	}
	v.Sources = append(v.Sources, p.series.sources(m)...)
	for i, n := range m.reasons {
		if n > 0 {
			row := reasonRow{human(reasons[i]), outcomeOf(authz.Reason(i)), n, "–"}
			if last.seconds > 0 {
				row.Rate = rate(float64(last.rates[i]))
			}
			v.Reasons = append(v.Reasons, row)
		}
	}
	slices.SortStableFunc(v.Reasons, func(a, b reasonRow) int { return cmp.Compare(b.Count, a.Count) })
	return v
}

// say sets the headline: what callers get, by the conditions of /readyz.
func (v *now) say(h httpapi.Health) {
	v.State, v.Headline = "good", "Requests are decided. No part reports a fault."
	worst := -1
	weight := func(c httpapi.Condition) int {
		switch {
		case c.State == httpapi.StateNotReady:
			return 3
		case denies(c):
			return 2
		case c.State == httpapi.StateDegraded:
			return 1
		}
		return 0
	}
	for i, c := range h.Conditions {
		if w := weight(c); w > 0 && (worst < 0 || w > weight(h.Conditions[worst])) {
			worst = i
		}
	}
	if worst >= 0 {
		c := h.Conditions[worst]
		switch weight(c) {
		case 1:
			v.State, v.Headline = "warning", "Requests are decided, but not every part works."
			worst = -1 // it is among the faults
		case 2:
			v.State, v.Headline = "bad", sentenceOf(c)
		default:
			v.State, v.Headline = "bad", "Not ready: "+about(c)
		}
	}
	for i, c := range h.Conditions {
		if i != worst && weight(c) > 0 {
			v.Faults = append(v.Faults, sentenceOf(c))
		}
	}
	if h.Status == httpapi.StatusDraining {
		v.Headline = "Stopping: requests in flight are answered, and no new connections are accepted."
		if v.State == "good" {
			v.State = "warning"
		}
	}
}

// denies reports whether the condition says that requests are denied. What callers
// get stands first in Condition.Reason, so it is the same in /readyz and here.
func denies(c httpapi.Condition) bool { return strings.HasPrefix(c.Reason, "denying") }

// sentenceOf writes what is wrong with a part as one sentence.
func sentenceOf(c httpapi.Condition) string { return upper(about(c)) + "." }

func about(c httpapi.Condition) string {
	if strings.HasPrefix(c.Part, issuerPart) && denies(c) {
		return strings.Replace(c.Reason, "this issuer's tokens", "tokens of "+strings.TrimPrefix(c.Part, issuerPart), 1)
	}
	if denies(c) || c.Part == "revocations" {
		return c.Reason
	}
	return newSource(c, -1).Name + " " + c.Reason
}

func upper(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

const issuerPart = "issuer "

// newSource describes a part to somebody who has not read the documentation.
func newSource(c httpapi.Condition, entries float64) source {
	s := source{Name: upper(c.Part), State: "good", Word: "working", Age: ago(c.Age), Reason: c.Reason}
	switch {
	case c.Part == "revocations":
		s.Name, s.About = "Revocation state", "what this sidecar knows of revoked tokens"
		if entries >= 0 && c.Bound > 0 {
			s.About = amount(entries) + " revocations, kept in this sidecar's memory"
		}
	case c.Part == "store":
		s.Name, s.About = "Revocation store", "the database that every revocation is written to"
	case c.Part == "redis":
		s.Name, s.About = "Redis", "tells the sidecars of new revocations within milliseconds"
	case c.Part == "keys":
		s.Name, s.About = "Signing keys", "tokens are verified with them"
	case strings.HasPrefix(c.Part, issuerPart):
		s.Name, s.About = "Signing keys of "+strings.TrimPrefix(c.Part, issuerPart), "fetched from the issuer; its tokens are verified with them"
	}
	if c.Bound > 0 {
		s.Limit = "used for " + length(c.Bound)
	}
	switch {
	case c.State == httpapi.StateNotReady || denies(c):
		s.State, s.Word = "bad", "denying"
	case c.State == httpapi.StateDegraded:
		s.State, s.Word = "warning", "failing"
	}
	if c.Detail != "" {
		s.Reason = c.Detail // the headline has the other
	}
	return s
}

// length writes a length of time for people.
func length(d time.Duration) string {
	switch {
	case d < 10*time.Second && d%time.Second != 0:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < 2*time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 0, 64) + " s"
	case d < 2*time.Hour:
		return strconv.FormatFloat(d.Minutes(), 'f', 0, 64) + " min"
	case d < 48*time.Hour:
		return strconv.FormatFloat(d.Hours(), 'f', 0, 64) + " h"
	}
	return strconv.FormatFloat(d.Hours()/24, 'f', 0, 64) + " days"
}

// ago writes an age; negative: never.
func ago(d time.Duration) string {
	if d < 0 || d > 100*365*24*time.Hour {
		return "never"
	}
	return length(d) + " ago"
}

// lately says what callers got between the last two samples.
func lately(p point) string {
	if p.seconds == 0 {
		return ""
	}
	n := map[string]float64{}
	total := 0.0
	for r, rate := range p.rates {
		n[outcomeOf(authz.Reason(r))] += float64(rate * p.seconds)
		total += float64(rate * p.seconds)
	}
	within := fmt.Sprintf("In the last %.0f seconds: ", p.seconds)
	if total < .5 {
		return within + "no requests."
	}
	return within + fmt.Sprintf("%s requests; %s allowed, %s denied, %s answered 503.", amount(total), amount(n["allowed"]), amount(n["denied"]), amount(n["error"]))
}
