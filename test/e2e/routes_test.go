package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// rawUpstream is a server that accepts and records any request line.
type rawUpstream struct {
	addr string
	mu   sync.Mutex
	seen []string // request lines and header lines of each request
}

func newRawUpstream(t *testing.T) *rawUpstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u := &rawUpstream{addr: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { u.serve(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return u
}

func (u *rawUpstream) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	var head strings.Builder
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if strings.TrimSpace(line) == "" {
			break
		}
		head.WriteString(strings.TrimRight(line, "\r\n") + "\n")
	}
	u.mu.Lock()
	u.seen = append(u.seen, head.String())
	u.mu.Unlock()
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

// take returns the requests received since the last call.
func (u *rawUpstream) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen
	u.seen = nil
	return seen
}

// rawRequest sends the request line unchanged and returns the status, or 0 if
// Envoy closes the connection.
func rawRequest(t *testing.T, addr, method, target string, header ...string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	text := method + " " + target + " HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n"
	for i := 0; i+1 < len(header); i += 2 {
		text += header[i] + ": " + header[i+1] + "\r\n"
	}
	_, err = io.WriteString(c, text+"\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0 // Envoy closed the connection: not HTTP
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

const tricksRoutes = `
routes:
  - {name: public, public: true, match: {paths: [{prefix: /public}, {exact: /healthz}]}}
  - {name: admin, match: {paths: [{prefix: /admin}]}, scopes: [admin]}
  - {name: rest}
`

// No spelling of a path lets an anonymous request leave the public routes, or a
// token without scope past the stricter route. Tried with an Envoy that
// normalises paths and with one that does not.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	throughDoors(t, testPathTricks)
}

func testPathTricks(t *testing.T, module bool) {
	t.Helper()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: tricksRoutes + "headers: {claims: {x-jwt-sub: sub}}\n"})
	upstream := newRawUpstream(t)
	token := "Bearer " + r.Token(nil)
	tricks := []string{
		"/public/../admin", "/public/./../admin", "/public/%2e%2e/admin", "/public/%2E%2e/admin", "/public/.%2e/admin", "/public/..%2fadmin", "/public/..%2Fadmin",
		"/public%2f..%2fadmin", "/public/%2e%2e%2fadmin", "/public/..;/admin", "/public/..;x=y/admin", "/public;/../admin", "/public/x;y=/../../admin",
		`/public/..\admin`, `/public\..\admin`, "/public/..%5cadmin", "/public/%5c../admin", "/public//../admin", "/public/x//../../admin", "//admin", "//public/../admin", "///admin",
		"/public/%252e%252e/admin", "/public/%252e%252e%252fadmin", "/public/%25%32%65%25%32%65/admin", "/public/%00/../admin", "/public/..%00/admin", "/public/%0d%0aX:y/../admin",
		"/public#/../../admin", "/public/%23/../../admin", "/public/%3f/../../admin", "/public/%3f/..%2f../admin", "/public/%c0%ae%c0%ae/admin", "/public/%c0%2e%c0%2e/admin", "/public/%e0%80%ae./admin", "/public/..%c0%afadmin",
		"/public/%ef%bc%8e%ef%bc%8e/admin", "/public/..%ef%bc%8fadmin", "/public/%u002e%u002e/admin", "/public/%%32%65%%32%65/admin", "/public/..%u2215admin",
		"/admin", "/admin/", "/./admin", "/%61dmin", "/admin;x", "/admin%2f", "/admin/..;/public", "/%2fadmin", "/;/admin", "/;x/admin", "/x/../admin", "/admin#/public", "/admin?/public", "/admin%3f/public", "/admin%23/public",
		"http://api.example/admin", "http://api.example/public/../admin", "http://other.example/public/../admin", "/healthz/../admin", "/healthz;/../admin", "/healthz/", "/healthz%2f", "/healthz%00", "/publicx", "/public.", "/public%20/../admin", "/PUBLIC",
	}
	for name, normalise := range map[string]bool{"as it comes": false, "normalised": true} {
		front := r.Door(t, module, upstream.addr, harness.FrontOptions{
			Timeout: 5 * time.Second, Extra: "encode_raw_headers: true", RawPaths: !normalise, MergeSlashes: normalise,
		}).Addr("front")
		for _, good := range []string{"/public", "/public/x?a=/../b", "/healthz", "/public/%61", "http://api.example/public/x"} {
			status := rawRequest(t, front, "GET", good, "x-jwt-sub", "root", "X-Jwt-Sub", "admin")
			assert.Equalf(t, 200, status, "%s: status %d for %s, which is public", name, status, good)
			for _, head := range upstream.take() {
				assert.NotContainsf(t, strings.ToLower(head), "x-jwt-sub", "%s: %s: a spoofed identity reached the upstream:\n%s", name, good, head)
			}
		}
		for _, trick := range tricks {
			for _, method := range []string{"GET", "POST", "get"} {
				status := rawRequest(t, front, method, trick)
				for _, head := range upstream.take() {
					line, _, _ := strings.Cut(head, "\n")
					_, target, _ := strings.Cut(line, " ")
					assert.Truef(t, strings.HasPrefix(path.Clean(target), "/public"), "%s: anonymous %s %q reached the upstream as %q (%d)", name, method, trick, line, status)
					assert.Falsef(t, strings.ContainsAny(target, `%\;#`), "%s: anonymous %s %q reached the upstream as %q (%d)", name, method, trick, line, status)
					assert.NotContainsf(t, target, "..", "%s: anonymous %s %q reached the upstream as %q (%d)", name, method, trick, line, status)
				}
			}
			status := rawRequest(t, front, "GET", trick, "Authorization", token)
			for _, head := range upstream.take() {
				line, _, _ := strings.Cut(head, "\n")
				target := strings.Fields(line)[1]
				p := path.Clean(loosely(target))
				assert.NotEqualf(t, "/admin", p, "%s: %q with a token without scope reached the upstream as %q (%d)", name, trick, line, status)
				assert.Falsef(t, strings.HasPrefix(p, "/admin/"), "%s: %q with a token without scope reached the upstream as %q (%d)", name, trick, line, status)
			}
		}
		// An administrator is allowed.
		assert.Equalf(t, 200, rawRequest(t, front, "GET", "/admin/users", "Authorization", "Bearer "+r.Token(map[string]any{"scope": "admin"})), "%s: the administrator", name)
		upstream.take()
	}
}

// loosely reads a path as the most lenient server would.
func loosely(p string) string {
	p, _, _ = strings.Cut(p, "?")
	p, _, _ = strings.Cut(p, "#")
	for range 2 {
		for code, c := range map[string]string{"%2e": ".", "%2f": "/", "%5c": `\`, "%61": "a", "%25": "%", "%3b": ";", "%32": "2", "%65": "e", "%66": "f"} {
			p = strings.ReplaceAll(strings.ReplaceAll(p, code, c), strings.ToUpper(code), c)
		}
	}
	p = strings.ReplaceAll(p, `\`, "/")
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// TestOtherSources covers opaque tokens, status lists and the protected
// resource's metadata.
func TestOtherSources(t *testing.T) {
	t.Parallel()
	throughDoors(t, testOtherSources)
}

func testOtherSources(t *testing.T, module bool) {
	t.Helper()
	var mu sync.Mutex
	active := true
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if _, secret, _ := r.BasicAuth(); secret != "introspection-secret" || !active || r.PostFormValue("token") != "opaque-token" {
			fmt.Fprint(w, `{"active":false}`)
			return
		}
		fmt.Fprintf(w, `{"active":true,"sub":"carol","aud":"api","jti":"op-1","exp":%d}`, time.Now().Add(time.Hour).Unix())
	}))
	t.Cleanup(login.Close)
	issuer := authztest.NewIssuer(authztest.Named("https://issuer.example"))
	t.Cleanup(issuer.Close)
	var lists *httptest.Server
	lists = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/statuslist+jwt")
		fmt.Fprint(w, issuer.Mint(map[string]any{"sub": lists.URL + r.URL.Path, "aud": nil,
			"status_list": map[string]any{"bits": 1, "lst": "eNrbuRgAAhcBXQ"}}, authztest.Header("typ", "statuslist+jwt"))) // entries 0 and 3 to 5 are set
	}))
	t.Cleanup(lists.Close)
	secret := harness.WriteFile(t, harness.Dir(t), "secret", "introspection-secret\n")
	r := harness.NewRig(t, harness.RigOptions{Module: module, Issuer: issuer, MaxStaleness: maxStaleness, SyncInterval: time.Second, Config: fmt.Sprintf(`
routes:
  - {name: legacy, match: {paths: [{prefix: /legacy}]}, introspection: login}
  - {name: rest, scopes: [read]}
introspection:
  - {name: login, endpoint: %q, issuer: "https://login.example", audiences: [api], client_id: bouncer, client_secret_file: %s, cache_ttl: 1s}
status_lists: {hosts: [%q]}
resource: {resource: "https://api.example/v1"}
headers: {claims: {x-jwt-sub: sub}}
`, login.URL, secret, strings.TrimPrefix(lists.URL, "http://"))})
	get := func(path, token string) harness.Reply {
		t.Helper()
		reply, err := r.Front.Do(t.Context(), "GET", path, "Authorization", "Bearer "+token)
		require.NoError(t, err)
		return reply
	}
	reply := get("/legacy", "opaque-token")
	if assert.Equalf(t, 200, reply.Status, "opaque token: %+v", reply.Upstream) {
		if assert.NotNilf(t, reply.Upstream, "opaque token: %d %+v", reply.Status, reply.Upstream) {
			assert.Equalf(t, "carol", reply.Upstream.Header.Get("X-Jwt-Sub"), "opaque token: %d %+v", reply.Status, reply.Upstream)
		}
	}
	for path, token := range map[string]string{"/legacy": "another-token", "/other": "opaque-token"} {
		reply = get(path, token)
		assert.Equalf(t, 401, reply.Status, "%s with %s", path, token)
	}
	mu.Lock()
	active = false
	mu.Unlock()
	harness.Eventually(t, maxStaleness, "a token that the issuer has revoked is denied", func(ctx context.Context) error {
		reply, err := r.Front.Do(ctx, "GET", "/legacy", "Authorization", "Bearer opaque-token")
		if err == nil && reply.Status != 401 {
			err = fmt.Errorf("status %d", reply.Status)
		}
		return err
	})

	listed := func(index int) map[string]any {
		return map[string]any{"scope": "read", "status": map[string]any{"status_list": map[string]any{"idx": index, "uri": lists.URL + "/1"}}}
	}
	for index, want := range map[int]int{0: 401, 1: 200, 3: 401, 6: 200, 999: 503} {
		reply = get("/x", r.Token(listed(index)))
		assert.Equalf(t, want, reply.Status, "status list entry %d: %s", index, reply.Body)
	}
	// Both must agree: the list calls this token valid, but it is revoked here.
	r.Revoke(t, map[string]any{"iss": r.Issuer.Name, "jti": "listed-and-revoked"})
	claims := listed(1)
	claims["jti"] = "listed-and-revoked"
	r.Front.AwaitStatus(t, r.Token(claims), 401, maxStaleness)

	reply = r.Front.Get(t)
	const meta = "/.well-known/oauth-protected-resource/v1"
	assert.Contains(t, reply.Header.Get("Www-Authenticate"), `resource_metadata="https://api.example`+meta+`"`, "the challenge does not name the metadata")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.Bouncer.HTTP+meta, http.NoBody)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	doc, _ := io.ReadAll(resp.Body)
	for _, part := range []string{`"resource": "https://api.example/v1"`, `"https://issuer.example"`, `"https://login.example"`, `"read"`} {
		assert.Containsf(t, string(doc), part, "the metadata does not contain %s: %s", part, doc)
	}
}
