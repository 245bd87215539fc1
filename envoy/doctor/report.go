package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Status is what a check has found.
type Status string

// The statuses, from good to bad. The zero Status is none of them.
const (
	OK          Status = "ok"
	NotExamined Status = "not_examined" // the doctor could not find out
	Warning     Status = "warning"      // a fault under some circumstance, or a protection that is missing
	Failure     Status = "failure"      // requests pass or fail that should not
)

// Result is one finding, or the statement that there is none.
type Result struct {
	ID     string `json:"id"`
	Status Status `json:"status"`
	Where  string `json:"where,omitempty"`
	Found  string `json:"found"`
	Why    string `json:"why,omitempty"`
	Do     string `json:"do,omitempty"`
}

// Report holds the results of an examination. The zero Report is empty.
type Report struct {
	results []Result
	passed  map[string][]string // the places at which a check has found nothing, by id
	accept  []string
}

// Accept turns findings into results that are OK. An entry is the ID of a check,
// or ID@TEXT for the findings of the check at places that contain the text.
func (r *Report) Accept(entries []string) error {
	for _, e := range entries {
		if id, _, _ := strings.Cut(e, "@"); catalog[id].Do == "" {
			return fmt.Errorf("%q: there is no check %q", e, id)
		}
	}
	r.accept = entries
	return nil
}

// accepted reports whether the finding is one that Accept has named.
func (r *Report) accepted(id, where string) bool {
	return slices.ContainsFunc(r.accept, func(e string) bool {
		accepted, text, _ := strings.Cut(e, "@")
		return accepted == id && strings.Contains(where, text)
	})
}

// Results returns all results, the worst first, and one OK result for each check
// that found nothing anywhere.
func (r *Report) Results() []Result {
	all := slices.Clone(r.results)
	for id, places := range r.passed {
		if !slices.ContainsFunc(all, func(x Result) bool { return x.ID == id }) {
			all = append(all, Result{ID: id, Status: OK, Found: summary(places)})
		}
	}
	slices.SortStableFunc(all, func(a, b Result) int {
		return cmp.Or(rank(b.Status)-rank(a.Status), strings.Compare(a.ID, b.ID), strings.Compare(a.Where, b.Where))
	})
	return slices.Compact(all)
}

// Count returns the number of results with the status.
func (r *Report) Count(s Status) int {
	n := 0
	for _, x := range r.Results() {
		if x.Status == s {
			n++
		}
	}
	return n
}

func rank(s Status) int { return slices.Index([]Status{OK, NotExamined, Warning, Failure}, s) }

// summary is the found text of a check that passed.
func summary(places []string) string {
	places = slices.Compact(slices.Sorted(slices.Values(places)))
	const shown = 2
	if len(places) > shown {
		return fmt.Sprintf("%s, and %d more", strings.Join(places[:shown], "; "), len(places)-shown)
	}
	return strings.Join(places, "; ")
}

// expect records whether the check passed at a place. The format says what was
// found if it did not.
func (r *Report) expect(good bool, id, where, format string, args ...any) {
	if good {
		r.pass(id, where)
		return
	}
	r.find(catalog[id].Level, id, where, format, args...)
}

// pass records that the check found nothing at a place.
func (r *Report) pass(id, where string) {
	if r.passed == nil {
		r.passed = map[string][]string{}
	}
	r.passed[id] = append(r.passed[id], where)
}

// find records a finding of the given status.
func (r *Report) find(s Status, id, where, format string, args ...any) {
	c := catalog[id]
	if c.Do == "" {
		panic("doctor: no check " + id) // a misspelt constant
	}
	x := Result{ID: id, Status: s, Where: where, Found: fmt.Sprintf(format, args...), Why: c.Why, Do: c.Do}
	if s != NotExamined && r.accepted(id, where) {
		x.Status, x.Found = OK, "accepted: "+x.Found
	}
	r.results = append(r.results, x)
}

// unknown records that the check could not find out.
func (r *Report) unknown(id, where, format string, args ...any) {
	r.find(NotExamined, id, where, format, args...)
}
