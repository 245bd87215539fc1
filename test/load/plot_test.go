package load

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// plot draws rows as a bar chart into a file beside the report.
func plot(t testing.TB, file, title string, rows []row, value func(row) float64) {
	t.Helper()
	if *report == "" {
		return
	}
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(*report), file), []byte(bars(title, rows, value)), 0o644))
}

func bars(title string, rows []row, value func(row) float64) string {
	const width, left, bar, gap = 760, 330, 22, 12
	most := 0.0
	for _, r := range rows {
		most = max(most, value(r))
	}
	var b strings.Builder
	height := 48 + len(rows)*(bar+gap)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13" role="img">`+"\n", width, height)
	fmt.Fprintf(&b, "<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"600\" fill=\"#222\">%s</text>\n", html.EscapeString(title), html.EscapeString(title))
	for i, r := range rows {
		y := 40 + i*(bar+gap)
		name, fill := r.name, "#9aa5b1"
		if strings.Contains(name, "**") {
			name, fill = strings.ReplaceAll(name, "**", ""), "#1f6feb"
		}
		w := int(value(r) / most * (width - left - 70))
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#222\">%s</text>\n", left-8, y+bar-6, html.EscapeString(name))
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>\n", left, y, w, bar, fill)
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" fill=\"#222\">%.1f</text>\n", left+w+6, y+bar-6, value(r))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func TestBars(t *testing.T) {
	svg := bars("a < b", []row{{name: "**x**", ratio: 2}, {name: "y & z", ratio: 1}}, func(r row) float64 { return r.ratio })
	for _, want := range []string{"a &lt; b", "y &amp; z", `width="360"`, `width="180"`, "#1f6feb"} {
		assert.Containsf(t, svg, want, "no %q in\n%s", want, svg)
	}
}
