package page

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// span is a range of time that the charts can show.
type span struct {
	Key, Name string
	minutes   int
}

var spans = []span{{"5m", "5 min", 5}, {"15m", "15 min", 15}, {"1h", "1 hour", 60}}

// findSpan returns the span with the key, else the one in the middle.
func findSpan(key string) span {
	if i := slices.IndexFunc(spans, func(s span) bool { return s.Key == key }); i >= 0 {
		return spans[i]
	}
	return spans[1]
}

// points returns the points of the span: at most 120, because the browser reads them
// every other second.
func (s span) points(from *series) []point {
	n := s.minutes * int(time.Minute/sampleEvery)
	return from.window(n, max(1, (n+119)/120))
}

// The plot's own units. The page stretches it; text is outside of it.
const plotWidth, plotHeight = 600.0, 140.0

// chart is a plot with its scales. Its texts are for those who cannot see it, too.
type chart struct {
	ID, Title, Unit string
	Summary         string
	Y, X            []string // labels, evenly spaced: from the top, and from the left
	Areas, Lines    []trace
	Empty           string // instead of traces: why there are none
}

// trace is one line or area, and its entry in the legend.
type trace struct {
	Name, Value string // Value is the newest
	Class       string
	Path        string // of the SVG
}

// charts returns the three charts of the points in s.
func charts(s span, points []point) []chart {
	x := []string{"−" + s.Name, "−" + strconv.FormatFloat(float64(s.minutes)/2, 'f', -1, 64) + " min", "now"}
	all := []chart{requestChart(points), denialChart(points), latencyChart(points)}
	for i := range all {
		c := &all[i]
		c.X = x
		var now []string
		for _, t := range slices.Concat(c.Areas, c.Lines) {
			now = append(now, t.Name+" "+t.Value)
		}
		c.Summary = c.Title + " over the last " + s.Name + ", in " + c.Unit + ". "
		if c.Empty != "" {
			c.Summary += c.Empty
		} else {
			c.Summary += "Now: " + strings.Join(now, ", ") + "."
		}
	}
	return all
}

func requestChart(points []point) chart {
	c := chart{ID: "requests", Title: "Requests", Unit: "requests per second"}
	allowed, denied, failed := make([]float64, len(points)), make([]float64, len(points)), make([]float64, len(points))
	for i, p := range points {
		for r, rate := range p.rates {
			switch outcomeOf(authz.Reason(r)) {
			case "allowed":
				allowed[i] += float64(rate)
			case "denied":
				denied[i] += float64(rate)
			default:
				failed[i] += float64(rate)
			}
		}
	}
	c.stack(points, []layer{{"allowed", "good", allowed}, {"denied", "deny", denied}, {"answered 503", "fail", failed}})
	return c
}

// outcomeOf groups reasons as the counters of routes do: allowed, denied, or error
// for what is answered 503.
func outcomeOf(r authz.Reason) string {
	switch r {
	case authz.ReasonAllowed, authz.ReasonAllowedAnonymous:
		return "allowed"
	case authz.ReasonKeysUnavailable, authz.ReasonRevocationUnknown, authz.ReasonOverloaded, authz.ReasonInternal:
		return "error"
	}
	return "denied"
}

// denialChart shows the five most frequent reasons, and the others as one.
func denialChart(points []point) chart {
	c := chart{ID: "denials", Title: "Denials by reason", Unit: "denials per second"}
	const shown = 5
	sums := make([]float64, len(reasons))
	var order []int
	for r := range reasons {
		for _, p := range points {
			sums[r] += float64(p.rates[r])
		}
		if sums[r] > 0 && outcomeOf(authz.Reason(r)) != "allowed" {
			order = append(order, r)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sums[b], sums[a]) })
	top := order[:min(shown, len(order))]
	rest := order[len(top):]
	slices.Sort(top) // a reason keeps its colour while the ranks change
	var layers []layer
	for i, r := range top {
		values := make([]float64, len(points))
		for j, p := range points {
			values[j] = float64(p.rates[r])
		}
		layers = append(layers, layer{human(reasons[r]), "c" + strconv.Itoa(i), values})
	}
	if len(rest) > 0 {
		values := make([]float64, len(points))
		for j, p := range points {
			for _, r := range rest {
				values[j] += float64(p.rates[r])
			}
		}
		layers = append(layers, layer{"other reasons", "c5", values})
	}
	c.stack(points, layers)
	if len(layers) == 0 && c.Empty == "" {
		c.Empty = "Nothing was denied."
	}
	return c
}

type layer struct {
	name, class string
	values      []float64
}

// stack draws layers as areas on top of each other, from 0.
func (c *chart) stack(points []point, layers []layer) {
	base := make([]float64, len(points))
	top := 0.0
	for i := range points {
		sum := 0.0
		for _, l := range layers {
			sum += l.values[i]
		}
		top = max(top, sum)
	}
	top = niceAbove(top)
	c.Y = []string{amount(top), amount(top / 2), "0"}
	if c.Empty = emptiness(points); c.Empty != "" {
		return
	}
	for _, l := range layers {
		upper := make([]float64, len(points))
		for i := range points {
			upper[i] = base[i] + l.values[i]
		}
		c.Areas = append(c.Areas, trace{l.name, rate(l.values[len(points)-1]), l.class, area(points, base, upper, top)})
		base = upper
	}
}

// emptiness says why there is nothing to draw; "": there is something.
func emptiness(points []point) string {
	for _, p := range points {
		if p.seconds > 0 {
			return ""
		}
	}
	return "The first numbers come within ten seconds of the start."
}

// latencyChart has a logarithmic scale, because a check takes 50 µs or 50 ms.
func latencyChart(points []point) chart {
	c := chart{ID: "latency", Title: "Time to decide", Unit: "time, logarithmic"}
	const lowest = 1e-5 // seconds
	highest := 1e-3
	for _, p := range points {
		for highest < float64(p.p99) {
			highest *= 10
		}
	}
	for y := highest; y > lowest*.99; y /= 10 {
		c.Y = append(c.Y, duration(y))
	}
	if c.Empty = emptiness(points); c.Empty != "" {
		return c
	}
	decades := math.Log10(highest / lowest)
	decided := false
	for _, t := range []struct {
		name, class string
		of          func(point) float32
	}{
		{"99 % within", "fail", func(p point) float32 { return p.p99 }},
		{"90 % within", "deny", func(p point) float32 { return p.p90 }},
		{"half within", "good", func(p point) float32 { return p.p50 }},
	} {
		var path strings.Builder
		pen := "M"
		for i, p := range points {
			v := float64(t.of(p))
			if v <= 0 {
				pen = "M" // a gap: nothing was decided
				continue
			}
			y := plotHeight * (1 - max(0, math.Log10(v/lowest))/decades)
			fmt.Fprintf(&path, "%s%s %s", pen, unit(place(points, i)), unit(y))
			if pen == "M" {
				fmt.Fprintf(&path, "h.1") // a point without neighbours is visible, too
			}
			pen, decided = "L", true
		}
		value := "–"
		if v := float64(t.of(points[len(points)-1])); v > 0 {
			value = duration(v)
		}
		c.Lines = append(c.Lines, trace{t.name, value, t.class, path.String()})
	}
	if !decided {
		c.Lines, c.Empty = nil, "Nothing was decided."
	}
	return c
}

func place(points []point, i int) float64 { return plotWidth * float64(i) / float64(len(points)-1) }

// area returns the outline between two lines, where there are points.
func area(points []point, lower, upper []float64, top float64) string {
	first := slices.IndexFunc(points, func(p point) bool { return p.seconds > 0 })
	var path strings.Builder
	pen := "M"
	to := func(i int, v float64) {
		fmt.Fprintf(&path, "%s%s %s", pen, unit(place(points, i)), unit(plotHeight*(1-v/top)))
		pen = "L"
	}
	for i := first; i < len(points); i++ {
		to(i, upper[i])
	}
	for i := len(points) - 1; i >= first; i-- {
		to(i, lower[i])
	}
	return path.String() + "Z"
}

// unit writes a coordinate.
func unit(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// niceAbove returns the next of 1, 2, 5, 10, 20 … that is at least v.
func niceAbove(v float64) float64 {
	if v <= 1 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range []float64{1, 2, 5} {
		if v <= step*power {
			return step * power
		}
	}
	return 10 * power
}

// amount writes a number for people: 0.5, 20, 12,000.
func amount(v float64) string {
	if v < 10 && v != math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	text := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func rate(v float64) string { return amount(v) + "/s" }

// duration writes seconds with two digits and a unit: 85 µs, 1.2 ms, 10 s.
func duration(s float64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1e-6, " µs"}, {1e-3, " ms"}, {1, " s"}} {
		v := s / u.of
		switch {
		case v < 9.95 && v != math.Round(v):
			return strconv.FormatFloat(v, 'f', 1, 64) + u.name
		case v < 999.5 || u.of == 1:
			return strconv.FormatFloat(v, 'f', 0, 64) + u.name
		}
	}
	return ""
}
