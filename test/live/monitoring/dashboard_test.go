package monitoring

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// panel is a panel of the dashboard.
type panel struct {
	Type, Title string
	GridPos     struct{ H, W, X, Y int }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct{ Expr, LegendFormat string }
}

// dashboard requires that every query of the dashboard returns data, and draws the
// panels.
func dashboard(t *testing.T, p *prometheus, from, to time.Time) {
	t.Helper()
	var d struct{ Panels []panel }
	require.NoError(t, json.Unmarshal([]byte(read(t, "k8s/components/monitoring/dashboard.json")), &d))
	variables := strings.NewReplacer("$__rate_interval", "5s", "$namespace", ".*", "$pod", ".*")
	chart := newCharts(from, to)
	for _, panel := range d.Panels {
		var lines []line
		for _, target := range panel.Targets {
			all := p.queryRange(variables.Replace(target.Expr), from, to, time.Second)
			assert.NotEmptyf(t, all, "panel %q: no data for %s", panel.Title, target.Expr)
			for _, s := range all {
				lines = append(lines, line{legend(target.LegendFormat, s.labels), s.points})
			}
		}
		chart.add(panel, lines)
	}
	picture(t, "dashboard.svg", chart.svg("jwt-bouncer, before, during and after an outage"))
}

// legend replaces {{label}} as Grafana does.
func legend(format string, labels map[string]string) string {
	for name, value := range labels {
		format = strings.ReplaceAll(format, "{{"+name+"}}", value)
	}
	return format
}

// line is a series with its name in the legend.
type line struct {
	name   string
	points [][2]float64 // seconds since 1970, value
}

// charts are the panels of a dashboard as one picture.
type charts struct {
	from, to float64
	height   int
	body     strings.Builder
}

func newCharts(from, to time.Time) *charts {
	return &charts{from: float64(from.Unix()), to: float64(to.Unix())}
}

const (
	column, rowHeight = 60, 26 // of Grafana's grid, in pixels
	inset             = 6
	legendLines       = 3
)

var colours = []string{"#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#0a7ea4", "#bf3989", "#57606a"}

// add draws a panel where the dashboard has it.
func (c *charts) add(p panel, lines []line) {
	x, y, w, h := p.GridPos.X*column, 40+p.GridPos.Y*rowHeight, p.GridPos.W*column, p.GridPos.H*rowHeight
	c.height = max(c.height, y+h)
	if p.Type == "row" {
		fmt.Fprintf(&c.body, `<text x="%d" y="%d" font-size="14" font-weight="600">%s</text>`+"\n", x+inset, y+18, html.EscapeString(p.Title))
		return
	}
	fmt.Fprintf(&c.body, `<rect x="%d" y="%d" width="%d" height="%d" fill="#fff" stroke="#d0d7de" rx="3"/>`+"\n", x+inset/2, y+inset/2, w-inset, h-inset)
	fmt.Fprintf(&c.body, `<text x="%d" y="%d" font-size="12" font-weight="600">%s</text>`+"\n", x+2*inset, y+20, html.EscapeString(p.Title))
	left, right, top, bottom := float64(x+56), float64(x+w-14), float64(y+32), float64(y+h-20-legendLines*13)
	// The highest lines come first, because the legend has no place for all.
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(highest([]line{b}), highest([]line{a})) })
	most := max(highest(lines), 1e-9)
	for _, part := range []float64{0, 0.5, 1} {
		at := bottom - part*(bottom-top)
		fmt.Fprintf(&c.body, `<path d="M%.0f %.0fH%.0f" stroke="#eaeef2"/><text x="%.0f" y="%.0f" font-size="9" fill="#57606a" text-anchor="end">%s</text>`+"\n",
			left, at, right, left-4, at+3, inUnit(part*most, p.FieldConfig.Defaults.Unit))
	}
	for i, l := range lines {
		colour := colours[i%len(colours)]
		fmt.Fprintf(&c.body, `<path d="%s" fill="none" stroke="%s" stroke-width="1.3"/>`+"\n", c.path(l, most, left, right, top, bottom), colour)
		if i < 2*legendLines {
			lx, ly := float64(x+2*inset)+float64(i%2)*float64(w)/2, bottom+16+float64(i/2)*13
			fmt.Fprintf(&c.body, `<rect x="%.0f" y="%.0f" width="8" height="3" fill="%s"/><text x="%.0f" y="%.0f" font-size="9" fill="#57606a">%s</text>`+"\n",
				lx, ly-5, colour, lx+12, ly, html.EscapeString(shortened(l.name, w/13)))
		}
	}
}

// path returns a line as a path that is interrupted where there is no value for more
// than two seconds.
func (c *charts) path(l line, most, left, right, top, bottom float64) string {
	var d strings.Builder
	last := 0.0
	for _, p := range l.points {
		command := "L"
		if p[0]-last > 2 {
			command = "M"
		}
		last = p[0]
		fmt.Fprintf(&d, "%s%.1f %.1f", command, left+(p[0]-c.from)/(c.to-c.from)*(right-left), bottom-p[1]/most*(bottom-top))
	}
	return d.String()
}

func highest(lines []line) float64 {
	most := 0.0
	for _, l := range lines {
		for _, p := range l.points {
			most = max(most, p[1])
		}
	}
	return most
}

// inUnit writes a value in one of Grafana's units.
func inUnit(v float64, unit string) string {
	switch {
	case unit == "percentunit":
		return fmt.Sprintf("%.0f%%", v*100)
	case unit == "bytes":
		return fmt.Sprintf("%.0f MiB", v/(1<<20))
	case unit == "s" && v > 0 && v < 1:
		return fmt.Sprintf("%.3g ms", v*1000)
	case unit == "s":
		return fmt.Sprintf("%.3g s", v)
	case unit == "reqps" || unit == "ops":
		return fmt.Sprintf("%.3g/s", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func shortened(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

func (c *charts) svg(title string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" fill="#1f2328" role="img">`+"\n"+
		`<title>%s</title><rect width="100%%" height="100%%" fill="#f6f8fa"/><text x="%d" y="26" font-size="16" font-weight="600">%s</text>`+"\n%s</svg>\n",
		24*column, c.height+inset, html.EscapeString(title), inset, html.EscapeString(title), c.body.String())
}

// TestCharts: the picture has every line, at the height of its value.
func TestCharts(t *testing.T) {
	c := newCharts(time.Unix(1000, 0), time.Unix(1010, 0))
	p := panel{Type: "timeseries", Title: "a < b"}
	p.GridPos.W, p.GridPos.H = 8, 8
	p.FieldConfig.Defaults.Unit = "percentunit"
	c.add(p, []line{{"x & y", [][2]float64{{1000, 0}, {1001, 0.5}, {1010, 1}}}})
	svg := c.svg("t")
	for _, want := range []string{"a &lt; b", "x &amp; y", "100%", "50%", `d="M56.0 189.0L97.0 130.5M466.0 72.0"`} {
		assert.Containsf(t, svg, want, "no %q in\n%s", want, svg)
	}
	assert.Equal(t, "p50 web-0", legend("p50 {{pod}}", map[string]string{"pod": "web-0"}))
	assert.True(t, slices.Contains(colours, "#1f6feb"))
}
