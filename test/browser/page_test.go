package browser

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

var images = flag.String("images", "", "directory that the pictures are written to")

func TestMain(m *testing.M) { harness.Main(m) }

const apiToken = "browser-test-api-token"

// tab is a Chromium tab that records the page's script errors and violations of
// its content security policy.
type tab struct {
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

func openTab(t *testing.T, dark bool) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	require.NoError(t, err, "chromium is needed (Debian: apt-get install chromium)")
	// NoSandbox: Chromium's sandbox refuses to run as root, as in CI.
	allocator, end := chromedp.NewExecAllocator(t.Context(), chromedp.ExecPath(path), chromedp.Headless, chromedp.NoFirstRun, chromedp.NoSandbox, chromedp.WindowSize(1360, 1000))
	t.Cleanup(end)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 90*time.Second)
	t.Cleanup(cancel)
	b := &tab{ctx: ctx}
	err = chromedp.Listen(ctx, func(ev any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			b.complaints = append(b.complaints, ev.ExceptionDetails.Text)
		case *cdplog.EventEntryAdded:
			if ev.Entry.Level == "error" && !strings.Contains(ev.Entry.Text, "401") {
				b.complaints = append(b.complaints, ev.Entry.Text+" "+ev.Entry.URL)
			}
		case *page.EventJavascriptDialogOpening:
			b.complaints = append(b.complaints, "dialog: "+ev.Message)
		}
	})
	if err == nil {
		_, err = chromedp.Call(ctx, cdplog.Enable, cdp.Empty{})
	}
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	if err == nil {
		_, err = chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
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

func TestOperatorsPage(t *testing.T) {
	iss := authztest.NewIssuer()
	t.Cleanup(iss.Close)
	dir := harness.Dir(t)
	upstream := harness.Upstream(t)
	pg, redis := harness.Postgres(t), harness.Redis(t)
	b := harness.Bouncer(t, fmt.Sprintf(`issuers:
  - {issuer: %q, audiences: [api]}
store: %q
redis: redis://%s/0
api: {token_file: %s}
`, iss.Name, pg.URL, redis.Addr, harness.WriteFile(t, dir, "token", "alice "+apiToken+"\n")))
	front := harness.NewFront(t, b.GRPC, upstream.Addr)
	victim := iss.Mint(map[string]any{"jti": "stolen-4711", "sub": "mallory"})

	// Traffic, so that the page has something to show.
	ctx, stop := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	t.Cleanup(func() { stop(); traffic.Wait() })
	for i := range 3 {
		traffic.Go(func() {
			good := iss.Mint(map[string]any{"sub": fmt.Sprint("user-", i)})
			bad := iss.Mint(nil, authztest.Tampered())
			for n := 0; ctx.Err() == nil; n++ {
				token := good
				if n%9 == 0 {
					token = bad
				}
				_, _ = front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+token)
				harness.Pause(ctx, 15*time.Millisecond)
			}
		})
	}
	seed(t, b, iss.Name)

	tab := openTab(t, false)
	tab.open(t, b.HTTP+"/")
	tab.see(t, "input[name=token]")
	tab.picture(t, "page-sign-in.png")
	tab.keys(t, "input[name=token]", "not-the-right-token\r")
	tab.see(t, ".error")
	assert.Contains(t, tab.text(t, ".error"), "not one of", "after a wrong token")
	tab.keys(t, "input[name=token]", apiToken+"\r")
	tab.see(t, "#parts")
	tab.polled(t, 8)
	got := tab.text(t, "header")
	assert.Contains(t, got, "page:alice", "header")
	assert.Contains(t, got, "ready", "header")
	for selector, what := range map[string]string{"#rate": "rate", "#p50": "median", "#p99": "99th percentile", "#allowed": "share allowed"} {
		got := tab.text(t, selector)
		assert.Truef(t, strings.ContainsAny(got, "123456789"), "%s: %q", what, got)
	}
	got = tab.text(t, "#decisions")
	assert.Contains(t, got, "allowed", "decisions")
	assert.Contains(t, got, "bad signature", "decisions")
	got = tab.text(t, "#parts")
	assert.Falsef(t, !strings.Contains(got, "replica") || !strings.Contains(got, "redis") || !strings.Contains(got, "keys of") || strings.Contains(got, "bad"), "freshness: %q", got)
	assert.Contains(t, tab.text(t, "#revocations"), "<script>alert(1)</script>", "hostile text is not shown as text")
	tab.picture(t, "page-overview.png")

	do(t, tab, chromedp.SetValue(chromedp.CSS("#revoke select[name=kind]"), "token"))
	tab.keys(t, "#revoke input[name=value]", victim)
	tab.keys(t, "#revoke input[name=reason]", "found in a public paste")
	tab.click(t, "#revoke button")
	tab.see(t, "#confirm")
	assert.Contains(t, tab.text(t, ".sentence"), "The token with the hash", "confirmation")
	require.Equal(t, 200, front.Bearer(t, victim).Status, "before the confirmation")
	assert.NotContains(t, do(t, tab, chromedp.OuterHTML(chromedp.CSS("html"))), victim, "the confirmation repeats the token")
	tab.picture(t, "page-confirm.png")
	tab.click(t, "#confirm")
	tab.see(t, ".done")
	tab.polled(t, 2)
	harness.Eventually(t, 10*time.Second, "the token is denied", func(ctx context.Context) error {
		r, err := front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+victim)
		if err == nil && r.Status != 401 {
			err = errors.New(http.StatusText(r.Status))
		}
		return err
	})

	tab.keys(t, "#search input[name=value]", victim)
	tab.click(t, "#search button")
	tab.until(t, `location.pathname === "/search"`)
	tab.see(t, "#revocations")
	got = tab.text(t, "#revocations")
	assert.Contains(t, got, "found in a public paste", "search")
	assert.NotContains(t, got, "stolen laptop", "search")
	assert.NotContains(t, do(t, tab, chromedp.Location()), "ey", "the token is in the address")
	tab.click(t, "header button")
	tab.see(t, "input[name=token]")
	tab.open(t, b.HTTP+"/")
	tab.see(t, "input[name=token]") // signed out
	tab.quiet(t)

	night := openTab(t, true)
	night.open(t, b.HTTP+"/")
	night.see(t, "input[name=token]")
	night.keys(t, "input[name=token]", apiToken+"\r")
	night.see(t, "#parts")
	night.polled(t, 4)
	redis.Stop()
	night.until(t, `!!document.querySelector("#parts .warning, #parts .bad")`)
	night.picture(t, "page-redis-away.png")
	night.quiet(t)
}

// seed revokes a few tokens, one of them with a hostile reason.
func seed(t *testing.T, b *harness.BouncerServer, iss string) {
	t.Helper()
	body := fmt.Sprintf(`[{"sub":"bob","reason":"left the company"},{"sid":"08a5019c-17e1","reason":"stolen laptop"},{"jti":"5f1d0c2e","reason":"<script>alert(1)</script><img src=x onerror=alert(2)>"},{"iss":%q,"kid":"2029-01","reason":"key retired"}]`, iss)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.HTTP+"/v1/revocations", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+apiToken)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	err = resp.Body.Close()
	require.NoErrorf(t, err, "%v %v", resp.Status, err)
	require.Equalf(t, http.StatusCreated, resp.StatusCode, "%v %v", resp.Status, err)
}
