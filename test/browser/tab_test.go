package browser

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

var images = flag.String("images", "", "directory that the pictures are written to")

func TestMain(m *testing.M) { harness.Main(m) }

// pictureTime is how long there is traffic before a picture of the charts is taken.
const pictureTime = 2 * time.Minute

const apiToken = "browser-test-api-token"

// tab is a Chromium tab that records the page's script errors and violations of
// its content security policy.
type tab struct {
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

func openTab(t *testing.T) *tab {
	t.Helper()
	var path string
	var err error
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err = exec.LookPath(name); err == nil {
			break
		}
	}
	require.NoError(t, err, "chromium is needed (Debian: apt-get install chromium)")
	// NoSandbox: Chromium's sandbox refuses to run as root, as in CI.
	allocator, end := chromedp.NewExecAllocator(t.Context(), chromedp.ExecPath(path), chromedp.Headless, chromedp.NoFirstRun, chromedp.NoSandbox, chromedp.WindowSize(1360, 1000))
	t.Cleanup(end)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	b := &tab{ctx: ctx}
	err = chromedp.Listen(ctx, func(ev any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			b.complaints = append(b.complaints, ev.ExceptionDetails.Text)
		case *cdplog.EventEntryAdded:
			if ev.Entry.Level == "error" && !strings.Contains(ev.Entry.Text, "status of 4") && !strings.Contains(ev.Entry.Text, "status of 503") {
				b.complaints = append(b.complaints, ev.Entry.Text+" "+ev.Entry.URL)
			}
		case *page.EventJavascriptDialogOpening:
			b.complaints = append(b.complaints, "dialog: "+ev.Message)
		}
	})
	if err == nil {
		_, err = chromedp.Call(ctx, cdplog.Enable, cdp.Empty{})
	}
	require.NoError(t, err)
	return b
}

func do[T any](t *testing.T, b *tab, action chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(b.ctx, action)
	require.NoError(t, err)
	return v
}

func (b *tab) open(t *testing.T, url string) { t.Helper(); do(t, b, chromedp.Navigate(url)) }

func (b *tab) see(t *testing.T, selector string) {
	t.Helper()
	do(t, b, chromedp.WaitVisible(chromedp.CSS(selector)))
}

func (b *tab) click(t *testing.T, selector string) {
	t.Helper()
	do(t, b, chromedp.Click(chromedp.CSS(selector)))
}

func (b *tab) keys(t *testing.T, selector, text string) {
	t.Helper()
	do(t, b, chromedp.SendKeys(chromedp.CSS(selector), text))
}

func (b *tab) text(t *testing.T, selector string) string {
	t.Helper()
	return do(t, b, chromedp.Text(chromedp.CSS(selector)))
}

// until waits until a JavaScript expression is true in the page.
func (b *tab) until(t *testing.T, expression string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, expression, func(context.Context) error {
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression))
		if err == nil && !ok {
			err = errors.New("not yet")
		}
		return err
	})
}

// polled waits until the page's script has shown n measurements.
func (b *tab) polled(t *testing.T, n int) {
	t.Helper()
	b.until(t, fmt.Sprintf("Number(document.body.dataset.polls || 0) >= %d", n))
}

// look sets what the page is looked at with: the width in pixels, and dark or light.
func (b *tab) look(t *testing.T, width int64, scheme string) {
	t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	require.NoError(t, err)
	_, err = chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 900, DeviceScaleFactor: 1, Mobile: width < 700})
	require.NoError(t, err)
}

// eval returns the value of a JavaScript expression, which may be a promise.
func eval[T any](t *testing.T, b *tab, expression string) T {
	t.Helper()
	return do(t, b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// inspect holds what the tab shows to WCAG 2.2 AA, contrast included, by the rules of
// axe-core, in light and dark and on wide and narrow screens, and to the width of the
// screen.
func (b *tab) inspect(t *testing.T, state string) {
	t.Helper()
	rules, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	require.NoError(t, err, "run `npm ci` in test/browser")
	for _, width := range []int64{1280, 440, 320} {
		for _, scheme := range []string{"light", "dark"} {
			b.look(t, width, scheme)
			wide := eval[[]string](t, b, `((width) => [...document.querySelectorAll("body *")].filter((e) => !e.closest(".skip, .stack thead") && e.getBoundingClientRect().right > width + 0.5).map((e) => e.tagName + "." + e.className + "#" + e.id).slice(0, 5))(`+strconv.FormatInt(width, 10)+`)`)
			assert.Emptyf(t, wide, "%s: wider than %d pixels", state, width)
			// A telephone widens the page's viewport to what overflows, so innerWidth says nothing.
			scrolled := eval[int64](t, b, `document.documentElement.scrollWidth`)
			assert.LessOrEqualf(t, scrolled, width, "%s: the page scrolls sideways at %d pixels", state, width)
			if width == 440 {
				continue // the layout of 320
			}
			b.until(t, `!document.querySelector(".lost")`)
			do(t, b, chromedp.Evaluate[any](string(rules)+"; undefined"))
			found := eval[[]string](t, b, `axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then((r) => r.passes.length < 20 ? ["only " + r.passes.length + " rules were run"] : r.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.html.slice(0, 120) + " " + n.any.map((a) => a.message).join()).join(" | ")))`)
			assert.Emptyf(t, found, "%s, %s, %d pixels", state, scheme, width)
		}
	}
	b.look(t, 1280, "light")
}

func (b *tab) picture(t *testing.T, name string) {
	t.Helper()
	if *images == "" {
		return
	}
	png := do(t, b, chromedp.FullScreenshot(100))
	require.NoError(t, os.WriteFile(filepath.Join(*images, name), png, 0o644))
}

func (b *tab) quiet(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.complaints {
		t.Error("the browser reports: " + c)
	}
}
