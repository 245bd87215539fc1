package docs

import (
	"encoding/json"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"jwtbouncer/test/harness"
)

// buildSite returns the directory with the site, as `make docs` builds it for
// the repository at that address.
func buildSite(t *testing.T, repository string) string {
	t.Helper()
	harness.NeedsProcess(t)
	site := filepath.Join(t.TempDir(), "site")
	cmd := exec.CommandContext(t.Context(), "make", "-s", "-C", harness.Root(), "docs", "SITE="+site)
	cmd.Env = append(os.Environ(), "REPOSITORY_URL="+repository, "SITE_URL=")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "make docs\n%s", out)
	return site
}

// sitePage is what a browser would find in a page.
type sitePage struct {
	links   []string // targets of links
	loads   []string // what the browser loads without being asked
	anchors []string
	counts  map[string]int // elements of the article by name
	article string         // its text outside code
}

func parsePage(t *testing.T, path string) (p sitePage) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	root, err := html.Parse(f)
	require.NoError(t, err)
	p.counts = map[string]int{}
	var walk func(n *html.Node, article bool)
	walk = func(n *html.Node, article bool) {
		attr := map[string]string{}
		for _, a := range n.Attr {
			attr[a.Key] = a.Val
		}
		article = article || n.Data == "article"
		if n.Type == html.TextNode && article && n.Parent.Data != "script" && n.Parent.Data != "style" {
			p.article += n.Data
		}
		if n.Type == html.ElementNode {
			if id, ok := attr["id"]; ok {
				p.anchors = append(p.anchors, id)
			}
			switch n.Data {
			case "a":
				if to, ok := attr["href"]; ok {
					p.links = append(p.links, to)
				}
			case "script", "img":
				if from, ok := attr["src"]; ok {
					p.loads = append(p.loads, from)
				}
			case "link":
				if attr["rel"] == "stylesheet" || attr["rel"] == "icon" {
					p.loads = append(p.loads, attr["href"])
				}
			}
			if article {
				p.counts[n.Data]++
				if n.Data == "pre" || n.Data == "code" {
					return
				}
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c, article)
		}
	}
	walk(root, false)
	return p
}

// TestSite builds the site, in which mkdocs accepts no broken link and no page
// outside the navigation. Every link and anchor of the result leads somewhere,
// no page loads anything from another server, and each shows what its source
// holds.
func TestSite(t *testing.T) {
	t.Parallel()
	const repository = "https://git.example/owner/jwt-bouncer"
	site := buildSite(t, repository)
	found := map[string]sitePage{}
	require.NoError(t, filepath.WalkDir(site, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "index.html" {
			found[filepath.Dir(path)] = parsePage(t, path)
		}
		return err
	}))
	require.Greater(t, len(found), 20)
	toRepository := 0
	for dir, p := range found {
		for _, to := range slices.Concat(p.links, p.loads) {
			u, err := url.Parse(to)
			require.NoError(t, err, dir)
			if file, ok := strings.CutPrefix(to, repository+"/blob/main/"); ok {
				toRepository++
				file, _, _ = strings.Cut(file, "#")
				_, err := os.Stat(filepath.Join(harness.Root(), file))
				assert.NoError(t, err, "%s links to %s", dir, to)
				continue
			}
			if u.IsAbs() {
				continue
			}
			target := filepath.Join(dir, filepath.FromSlash(u.Path))
			if _, err := os.Stat(target); !assert.NoError(t, err, "%s links to %s", dir, to) || u.Fragment == "" {
				continue
			}
			page, ok := found[target]
			assert.True(t, ok && slices.Contains(page.anchors, u.Fragment), "%s links to %s, which has no such heading", dir, to)
		}
		for _, from := range p.loads {
			assert.NotContains(t, from, "//", "%s loads from another server", dir)
		}
	}
	assert.Greater(t, toRepository, 100, "links to files outside docs")
	index, err := os.ReadFile(filepath.Join(site, "search", "search_index.json"))
	require.NoError(t, err)
	var search struct{ Docs []struct{ Location string } }
	require.NoError(t, json.Unmarshal(index, &search))
	for path, text := range pages(t) {
		if name, ok := strings.CutPrefix(filepath.ToSlash(rel(path)), "docs/"); ok {
			dir := filepath.Join(site, strings.TrimSuffix(strings.TrimSuffix(name, ".md"), "index"))
			if assert.Contains(t, found, dir, "%s is not on the site", name) {
				shows(t, name, text, found[dir])
				location := strings.TrimSuffix(strings.TrimSuffix(name, "index.md"), ".md")
				assert.True(t, slices.ContainsFunc(search.Docs, func(d struct{ Location string }) bool {
					return strings.TrimSuffix(d.Location, "/") == location
				}), "the search does not find %s", name)
			}
		}
	}
}

// TestSiteRefuses: `make docs` fails on what readers would stumble over. (With
// --quiet, mkdocs counts no warnings, so that --strict has no effect.)
func TestSiteRefuses(t *testing.T) {
	t.Parallel()
	harness.NeedsProcess(t)
	for name, change := range map[string]struct{ file, text, says string }{
		"missing heading":         {"index.md", "\n[Redis](redis.md#no-such-heading)\n", "no-such-heading"},
		"missing page":            {"index.md", "\n[Redis](valkey.md)\n", "valkey.md"},
		"page without navigation": {"orphan.md", "# Orphan\n", "orphan.md"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, copied := harness.Root(), t.TempDir()
			for _, dir := range []string{"docs", "scripts"} {
				require.NoError(t, os.CopyFS(filepath.Join(copied, dir), os.DirFS(filepath.Join(root, dir))))
			}
			for _, file := range []string{".mkdocs.yml", "Makefile", "test/docs.txt"} {
				text, err := os.ReadFile(filepath.Join(root, file))
				require.NoError(t, err)
				require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(copied, file)), 0o700))
				require.NoError(t, os.WriteFile(filepath.Join(copied, file), text, 0o600))
			}
			require.NoError(t, os.Symlink(filepath.Join(root, ".tools"), filepath.Join(copied, ".tools")))
			f, err := os.OpenFile(filepath.Join(copied, "docs", change.file), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			require.NoError(t, err)
			_, err = f.WriteString(change.text)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", copied, "docs").CombinedOutput()
			assert.Error(t, err)
			assert.Contains(t, string(out), change.says)
		})
	}
}

var (
	listItem = regexp.MustCompile(`(?m)^ *(?:[-*]|\d+\.) +\S`)
	tableRow = regexp.MustCompile(`(?m)^ *\|.*\|$`)
	remains  = regexp.MustCompile("```|\\]\\(|\\*\\*|^#+ ")
)

// shows compares the page with its source. GitHub and the site read Markdown
// with different programs, which disagree about lists and what is in them.
func shows(t *testing.T, name, source string, p sitePage) {
	t.Helper()
	prose := fences.ReplaceAllString(indentedFence.ReplaceAllString(source, ""), "")
	assert.Equal(t, len(blocks(name, source)), p.counts["pre"], "%s: code blocks", name)
	assert.Equal(t, len(listItem.FindAllString(prose, -1)), p.counts["li"], "%s: items of lists", name)
	assert.Equal(t, len(tableRow.FindAllString(prose, -1))-p.counts["table"], p.counts["tr"], "%s: rows of tables", name)
	assert.Equal(t, len(heading.FindAllString(prose, -1)), p.counts["h1"]+p.counts["h2"]+p.counts["h3"]+p.counts["h4"], "%s: headings", name)
	assert.Empty(t, remains.FindAllString(p.article, -1), "%s: Markdown that was not understood", name)
}

var indentedFence = regexp.MustCompile("(?ms)^ +```.*?^ +```$")

// TestExternalLinks: addresses of other sites are whole https addresses. They are
// not requested.
func TestExternalLinks(t *testing.T) {
	t.Parallel()
	found := 0
	for path, text := range pages(t) {
		prose := span.ReplaceAllString(fences.ReplaceAllString(indentedFence.ReplaceAllString(text, ""), ""), "")
		for _, m := range regexp.MustCompile(`(?:\]\(|<|\]: )([a-z]+://[^)>\s]*)`).FindAllStringSubmatch(prose, -1) {
			found++
			u, err := url.Parse(m[1])
			if assert.NoError(t, err, rel(path)) {
				assert.Equal(t, "https", u.Scheme, "%s: %s", rel(path), m[1])
				assert.Regexp(t, `^[a-z0-9-]+(\.[a-z0-9-]+)+$`, u.Host, "%s: %s", rel(path), m[1])
				assert.NotRegexp(t, `\.example$|^example\.`, u.Host, "%s: %s leads nowhere", rel(path), m[1])
			}
		}
	}
	assert.Greater(t, found, 5)
}
