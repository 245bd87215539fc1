package browser

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// installation is a sidecar with issuers whose names are as long as real ones.
type installation struct {
	realm, partner *authztest.Issuer
	store          *harness.FaultProxy
	redis          *harness.RedisServer
	bouncer        *harness.BouncerServer
	front          *harness.Front
}

const tenants = "https://login.microsoftonline.com/{tenantid}/v2.0"

func install(t *testing.T) *installation {
	t.Helper()
	in := &installation{
		realm:   authztest.NewIssuer(authztest.Named("https://sso.eu-central-1.shop.example/realms/customers")),
		partner: authztest.NewIssuer(authztest.Named("https://identity.partner-logistics.example/oauth2/default")),
	}
	entra := authztest.NewIssuer()
	for _, i := range []*authztest.Issuer{in.realm, in.partner, entra} {
		t.Cleanup(i.Close)
	}
	pg := harness.Postgres(t)
	in.store, in.redis = harness.Proxy(t, pg.Addr), harness.Redis(t)
	in.bouncer = harness.Bouncer(t, fmt.Sprintf(`issuers:
  - {issuer: %q, audiences: [api], jwks: %q}
  - {issuer: %q, audiences: [api], jwks: %q, refresh_interval: 10s, refresh_cooldown: 1s}
  - {issuer: %q, tenants: [any], audiences: [api], jwks: %q}
store: %q
redis: redis://%s/0
revocation: {max_staleness: 6s}
api: {token_file: %s}
routes:
  - {name: health, match: {paths: [{exact: /healthz}]}, public: true}
  - {name: checkout, match: {paths: [{prefix: /checkout}]}, scopes: [pay]}
  - {name: api}
`, in.realm.Name, in.realm.JWKSURL(), in.partner.Name, in.partner.JWKSURL(), tenants, entra.JWKSURL(),
		pg.Via(in.store.Addr), in.redis.Addr, harness.WriteFile(t, harness.Dir(t), "token", "alice "+apiToken+"\n")))
	in.front = harness.NewFront(t, in.bouncer.GRPC, harness.Upstream(t).Addr)
	return in
}

// traffic sends requests until the test ends: most of them good, some of each kind
// that is denied.
func (in *installation) traffic(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { stop(); all.Wait() })
	send := func(path, token string) {
		_, _ = in.front.Do(ctx, http.MethodGet, path, "Authorization", "Bearer "+token)
	}
	for i := range 3 {
		all.Go(func() {
			good := in.realm.Mint(map[string]any{"sub": fmt.Sprint("user-", i)}, authztest.Lifetime(time.Hour))
			partner := in.partner.Mint(map[string]any{"scope": "pay"}, authztest.Lifetime(time.Hour))
			bad := in.realm.Mint(nil, authztest.Tampered())
			expired := in.realm.Mint(nil, authztest.Lifetime(-time.Hour))
			other := in.partner.Mint(map[string]any{"aud": "billing"})
			for n := 0; ctx.Err() == nil; n++ {
				switch {
				case n%11 == 0:
					send("/orders", bad)
				case n%17 == 0 || n%300 > 240 && n%3 == 0:
					send("/orders", expired)
				case n%13 == 0:
					send("/checkout", good)
				case n%23 == 0:
					send("/orders", other)
				case n%5 == 0:
					send("/checkout", partner)
				case n%7 == 0:
					send("/healthz", "")
				default:
					send("/orders", good)
				}
				harness.Pause(ctx, time.Duration(12+n/40%9)*time.Millisecond)
			}
		})
	}
}

// signIn signs in at the page's address, which it has been given.
func (b *tab) signIn(t *testing.T, at string) {
	t.Helper()
	b.open(t, at+"/")
	b.see(t, "input[name=token]")
	b.keys(t, "input[name=token]", apiToken+"\r")
	b.see(t, "#now")
}

// headline waits until the page says text first.
func (b *tab) headline(t *testing.T, state, text string) {
	t.Helper()
	b.until(t, fmt.Sprintf("document.querySelector('#now.%s h1')?.textContent.includes(%q)", state, text))
}

func TestOperatorsPage(t *testing.T) {
	in := install(t)
	b := openTab(t)
	b.look(t, 1280, "light")
	b.open(t, in.bouncer.HTTP+"/")
	b.see(t, "input[name=token]")
	b.picture(t, "page-sign-in.png")
	b.inspect(t, "sign in")
	b.keys(t, "input[name=token]", "not-the-right-token\r")
	b.see(t, ".error")
	assert.Contains(t, b.text(t, ".error"), "not one of", "after a wrong token")
	b.inspect(t, "refused sign in")
	b.keys(t, "input[name=token]", apiToken+"\r")
	b.see(t, "#now")

	t.Run("quiet", func(t *testing.T) {
		b.headline(t, "good", "Requests are decided")
		assert.Contains(t, b.text(t, "#revocations"), "Nothing is revoked.")
		b.until(t, `document.querySelector("#latency").textContent.includes("Nothing was decided")`)
		b.inspect(t, "quiet")
	})

	in.seed(t)
	in.traffic(t)
	t.Run("busy", func(t *testing.T) {
		b.open(t, in.bouncer.HTTP+"/?range=5m")
		b.until(t, `["wrong audience", "insufficient scope"].every((r) => document.querySelector("#decisions").textContent.includes(r)) && document.querySelector("#lately").textContent.includes("allowed")`)
		if *images != "" {
			harness.Pause(t.Context(), pictureTime) // a picture with something in it
		}
		for selector, want := range map[string][]string{
			"header":       {"alice", "ready", "dev"},
			"#lately":      {"In the last", "requests", "allowed"},
			"#requests":    {"allowed", "denied", "requests per second", "5 min", "now"},
			"#denials":     {"bad signature", "denials per second"},
			"#latency":     {"99 % within", "half within", "100 µs"},
			"#decisions":   {"allowed anonymous", "bad signature", "insufficient scope", "wrong audience"},
			"#routes":      {"checkout", "api", "health"},
			"#issuers":     {in.realm.Name, in.partner.Name, tenants},
			"#sources":     {"Revocation state", "Revocation store", "Redis", "Signing keys of " + in.realm.Name, "ago", "used for 6 s"},
			"#revocations": {"<script>alert(1)</script>", "alice", "HTTP API", "Expires", "left the company"},
		} {
			got := b.text(t, selector)
			for _, w := range want {
				assert.Contains(t, got, w, selector)
			}
		}
		// The series are the server's: another tab has them at once.
		b.open(t, in.bouncer.HTTP+"/?range=5m")
		assert.NotEmpty(t, eval[string](t, b, `document.querySelector("#requests .area")?.getAttribute("d") || ""`))
		width := eval[float64](t, b, `document.querySelector("#revocations td:nth-child(2)").getBoundingClientRect().width`)
		assert.Greater(t, width, 200.0, "of the issuers' column at 1280 pixels")
		b.picture(t, "page-overview.png")
		b.inspect(t, "busy")
	})
	t.Run("without script", func(t *testing.T) { withoutScript(t, in) })
	t.Run("keyboard", func(t *testing.T) { keyboard(t, b, in) })
	t.Run("revoke", func(t *testing.T) { revoke(t, b, in) })

	t.Run("keys refused", func(t *testing.T) {
		in.partner.Publish([]byte(`{"keys":[{"kty":"oct","kid":"shared","k":"c2VjcmV0"}]}`))
		b.open(t, in.bouncer.HTTP+"/?range=5m")
		b.until(t, `document.querySelector("#now.bad, #now.warning")?.textContent.includes("partner-logistics")`)
		b.inspect(t, "keys refused")
		in.partner.Publish(nil)
		b.headline(t, "good", "Requests are decided")
	})
	t.Run("Redis away", func(t *testing.T) {
		in.redis.Stop()
		b.headline(t, "warning", "not every part works")
		b.until(t, `document.querySelector("#sources .warning")?.closest("li").textContent.includes("Redis")`)
		b.inspect(t, "Redis away")
		b.look(t, 1280, "dark")
		b.picture(t, "page-redis-away.png")
	})
	t.Run("store away", func(t *testing.T) {
		in.store.Down()
		b.headline(t, "bad", "Denying tokens")
		assert.Contains(t, b.text(t, "#headline"), "bound 6s")
		b.until(t, `/, [1-9][0-9,]* answered 503/.test(document.querySelector("#lately").textContent)`)
		assert.Contains(t, b.text(t, "#status"), "degraded")
		b.open(t, in.bouncer.HTTP+"/?range=5m")
		b.see(t, "#unlisted")
		assert.NotContains(t, b.text(t, "#revocations"), "Nothing is revoked")
		b.inspect(t, "store away")
		b.look(t, 1280, "light")
		if *images != "" {
			harness.Pause(t.Context(), 25*time.Second) // a picture of more than the beginning
		}
		b.picture(t, "page-store-away.png")
	})
	b.look(t, 1280, "light")
	b.click(t, "header button")
	b.see(t, "input[name=token]")
	b.open(t, in.bouncer.HTTP+"/")
	b.see(t, "input[name=token]") // signed out
	b.quiet(t)
}

func TestNotReady(t *testing.T) {
	iss := authztest.NewIssuer(authztest.Named("https://sso.eu-central-1.shop.example/realms/customers"))
	t.Cleanup(iss.Close)
	iss.Publish([]byte(`{"keys":[]}`))
	bouncer := harness.Bouncer(t, fmt.Sprintf(`issuers: [{issuer: %q, audiences: [api], jwks: %q}]
store: "sqlite://%s/revocations.db"
api: {token_file: %s}
`, iss.Name, iss.JWKSURL(), harness.Dir(t), harness.WriteFile(t, harness.Dir(t), "token", "alice "+apiToken+"\n")), harness.BouncerOptions{NoWait: true})
	harness.Eventually(t, 30*time.Second, "the page", bouncer.Live)
	b := openTab(t)
	b.look(t, 1280, "light")
	b.signIn(t, bouncer.HTTP)
	b.headline(t, "bad", "Not ready: denying tokens")
	assert.Contains(t, b.text(t, "#status"), "not ready")
	b.inspect(t, "not ready")
	b.quiet(t)
}

func withoutScript(t *testing.T, in *installation) {
	b := openTab(t)
	_, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	require.NoError(t, err)
	b.look(t, 1280, "light")
	b.signIn(t, in.bouncer.HTTP)
	html := do(t, b, chromedp.OuterHTML(chromedp.CSS("#live")))
	assert.Contains(t, html, `class="area good" d="M`, "charts are drawn")
	assert.Contains(t, b.text(t, "#lately"), "In the last")
	assert.Contains(t, b.text(t, "noscript"), "reload the page")
	b.click(t, `nav a[href="/?range=1h"]`)
	b.see(t, `nav a[href="/?range=1h"][aria-current]`)
	b.keys(t, "#search input[name=value]", "5f1d")
	b.click(t, "#search button")
	b.see(t, "#revocations table")
	assert.Contains(t, b.text(t, "#revocations table"), "5f1d0c2e")
	assert.NotContains(t, b.text(t, "#revocations table"), "left the company")
}

// keyboard walks the page with the tab key: everything is reached, in reading order,
// and the focus is seen and survives a refresh.
func keyboard(t *testing.T, b *tab, in *installation) {
	b.open(t, in.bouncer.HTTP+"/")
	b.see(t, "#now")
	const name = `((e) => e.name ? e.form.id + "." + e.name : e.tagName.toLowerCase() + ":" + e.textContent.trim())(document.activeElement)`
	var order []string
	for range 40 {
		do(t, b, chromedp.KeyEvent("\t"))
		at := eval[string](t, b, name)
		if len(order) > 0 && at == order[len(order)-1] { // a date field has several stops
			continue
		}
		if strings.HasPrefix(at, "body:") || len(order) > 0 && at == order[0] {
			break
		}
		order = append(order, at)
		ring := eval[string](t, b, `getComputedStyle(document.activeElement).outlineStyle`)
		assert.NotEqual(t, "none", ring, at)
	}
	assert.Equal(t, []string{
		"a:Skip to the revocations", "a:jwt-bouncer", "button:Sign out", "a:5 min", "a:15 min", "a:1 hour",
		"revoke.kind", "revoke.iss", "revoke.value", "revoke.not_before", "revoke.reason", "button:Review…",
		"search.kind", "search.iss", "search.value", "search.include_expired", "button:Search",
	}, order)
	do(t, b, chromedp.Focus(chromedp.CSS(`nav a[href="/?range=1h"]`)))
	polls := eval[float64](t, b, `Number(document.body.dataset.polls || 0)`)
	b.polled(t, int(polls)+2)
	assert.Equal(t, "a:1 hour", eval[string](t, b, name), "after the page has refreshed itself")
}

func revoke(t *testing.T, b *tab, in *installation) {
	victim := in.realm.Mint(map[string]any{"jti": "stolen-4711", "sub": "mallory"})
	b.open(t, in.bouncer.HTTP+"/")
	b.see(t, "#revoke")
	b.keys(t, "#revoke input[name=iss]", tenants)
	b.keys(t, "#revoke input[name=value]", "bob@contoso.example")
	b.keys(t, "#revoke input[name=reason]", "left")
	b.click(t, "#revoke button")
	b.see(t, "#form-error")
	assert.Contains(t, b.text(t, "#form-error"), "Issuer has no tenant")
	b.inspect(t, "an error in the form")
	assert.Equal(t, "bob@contoso.example", eval[string](t, b, `document.querySelector("#revoke input[name=value]").value`), "what was typed")
	assert.Equal(t, "iss", eval[string](t, b, `document.activeElement.name`), "the focus is on the wrong field")
	assert.Equal(t, tenants, eval[string](t, b, `[...document.querySelectorAll("#issuer-names option")].at(-1).value`))
	do(t, b, chromedp.SetValue(chromedp.CSS("#revoke input[name=iss]"), strings.Replace(tenants, "{tenantid}", "9188040d-6c67-4c5b-b112-36a304b66dad", 1)))
	b.click(t, "#revoke button")
	b.see(t, "#confirm")
	assert.Contains(t, b.text(t, ".sentence"), "9188040d-6c67-4c5b-b112-36a304b66dad")
	b.click(t, "#confirm")
	b.see(t, ".done")

	do(t, b, chromedp.SetValue(chromedp.CSS("#revoke select[name=kind]"), "token"))
	b.keys(t, "#revoke input[name=value]", victim)
	b.keys(t, "#revoke input[name=reason]", "found in a public paste")
	b.click(t, "#revoke button")
	b.see(t, "#confirm")
	assert.Contains(t, b.text(t, ".sentence"), "The token with the hash", "confirmation")
	require.Equal(t, 200, in.front.Bearer(t, victim).Status, "before the confirmation")
	assert.NotContains(t, do(t, b, chromedp.OuterHTML(chromedp.CSS("html"))), victim, "the confirmation repeats the token")
	b.picture(t, "page-confirm.png")
	b.inspect(t, "confirmation")
	b.click(t, "#confirm")
	b.see(t, ".done")
	harness.Eventually(t, 10*time.Second, "the token is denied", func(ctx context.Context) error {
		r, err := in.front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+victim)
		if err == nil && r.Status != 401 {
			err = errors.New(http.StatusText(r.Status))
		}
		return err
	})
	b.keys(t, "#search input[name=value]", victim)
	b.click(t, "#search button")
	b.until(t, `location.pathname === "/search"`)
	b.see(t, "#revocations table")
	got := b.text(t, "#revocations table")
	assert.Contains(t, got, "found in a public paste", "search")
	assert.NotContains(t, got, "stolen laptop", "search")
	assert.NotContains(t, do(t, b, chromedp.Location()), "ey", "the token is in the address")
}

// seed revokes a few tokens, one of them with a hostile reason.
func (in *installation) seed(t *testing.T) {
	t.Helper()
	body := fmt.Sprintf(`[{"iss":%[1]q,"kid":"2029-01","reason":"key retired"},
		{"iss":%[1]q,"jti":"5f1d0c2e-77aa-4c1b-9d7e-0b4a6f5c1d22","reason":"<script>alert(1)</script><img src=x onerror=alert(2)>"},
		{"iss":%[2]q,"sid":"08a5019c-17e1-4977-8f42-65a12843ea02","reason":"stolen laptop"},
		{"iss":%[1]q,"sub":"f:4cfd4b49-61e2-4a41-a2f3-9c9a8c3d2b11:bob","reason":"left the company"}]`, in.realm.Name, in.partner.Name)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, in.bouncer.HTTP+"/v1/revocations", strings.NewReader(body))
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
