package sidecar

import (
	"strings"
	"testing"
	"time"
)

const good = `
listen:
  grpc: 127.0.0.1:9191
  http: 127.0.0.1:9192
issuers:
  - issuer: https://issuer.example
    audiences: [api]
    jwks: https://issuer.example/jwks.json
    algorithms: [RS256, ES256, EdDSA]
store: sqlite:///var/lib/jwt-bouncer/revocations.db
redis: redis://127.0.0.1:6379/0
revocation: {replica: on, max_staleness: 30s, sync_interval: 2s, max_token_ttl: 24h, on_unprovable: deny}
headers: {claims: {x-jwt-sub: sub, x-jwt-iss: iss}, forward_authorization: true}
api: {token_file: /etc/jwt-bouncer/api-token}
routes: []
`

func TestTheDocumentedFileIsGood(t *testing.T) {
	t.Parallel()
	s, err := parse("f", []byte(good), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Revocation.Replica || s.Redis.URL != "redis://127.0.0.1:6379/0" || s.Issuers[0].Algorithms[2] != "EdDSA" || s.Headers.Claims["x-jwt-sub"] != "sub" {
		t.Errorf("%+v", s)
	}
}

func TestFaultsNameFileLineKeyAndRemedy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ change, to, want string }{
		{"  grpc: 127.0.0.1:9191", "  grpc: nowhere", `f:3:3: listen.grpc:`},
		{"  http: 127.0.0.1:9192", "  htpp: 127.0.0.1:9192", `f:4:3: listen.htpp: unknown key; did you mean "http"?`},
		{"issuers:", "isuers:", "isuers: unknown key; did you mean \"issuers\"?"},
		{"    audiences: [api]", "    audiences: []", "issuers[0].audiences:"},
		{"RS256, ES256", "HS256, none", "issuers[0].algorithms"},
		{"sqlite:///var", "sqlit:///var", "f:10:"},
		{"max_staleness: 30s", "max_staleness: 30", "revocation.max_staleness: \"30\" is not a duration"},
		{"on_unprovable: deny", "on_unprovable: maybe", "revocation.on_unprovable:"},
		{"x-jwt-sub: sub", "\"bad header\": sub", "headers.claims"},
		{"routes: []", "routes: [{name: a, match: {pahts: []}}]", "routes[0].match.pahts: unknown key"},
		{"redis: redis://127", "redis: http://127", "redis"},
		{"api: {token_file: /etc/jwt-bouncer/api-token}", "api: {}\nlog: {level: loud}", "log.level: \"loud\""},
	} {
		_, err := parse("f", []byte(strings.Replace(good, c.change, c.to, 1)), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.to, err, c.want)
		}
	}
}

func TestEveryFaultAtOnce(t *testing.T) {
	t.Parallel()
	_, err := parse("f", []byte("listen: {grpc: x}\nstore: y\nlog: {level: z}\nredis: q\n"), nil)
	for _, want := range []string{"listen.grpc", "store", "log.level", "redis", "issuers: at least one issuer is needed"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	env := func(vars map[string]string) func(string) (string, bool) {
		return func(k string) (string, bool) { v, ok := vars[k]; return v, ok }
	}
	withoutRedis := strings.Replace(good, "redis: redis://127.0.0.1:6379/0\n", "", 1)
	s, err := parse("f", []byte(withoutRedis), env(map[string]string{
		"REDIS_HOST": "cache", "REDIS_PORT": "tcp://10.0.0.1:6380", "CACHE_TTL": "600", "ENABLE_CACHE": "false",
		"JWT_BOUNCER_LISTEN_GRPC": "127.0.0.1:1", "JWT_BOUNCER_REVOCATION_MAX_STALENESS": "20s",
	}), func(s *Settings) { s.Listen.GRPC = "127.0.0.1:2" })
	if err != nil {
		t.Fatal(err)
	}
	if s.Redis.URL != "redis://cache:6380/0" || s.Tokens.TTL != 10*time.Minute || s.Redis.MaxTTL != 10*time.Minute || s.Tokens.Enabled {
		t.Errorf("seed variables: %v %v %v", s.Redis, s.Tokens, s.Redis.MaxTTL)
	}
	if s.Listen.GRPC != "127.0.0.1:2" || s.Revocation.MaxStaleness != 20*time.Second {
		t.Errorf("flag %s, environment %s", s.Listen.GRPC, s.Revocation.MaxStaleness)
	}
	s, err = parse("f", []byte(good), env(map[string]string{"REDIS_HOST": "cache"}))
	if err != nil || s.Redis.URL != "redis://127.0.0.1:6379/0" {
		t.Errorf("the file's redis gave way to REDIS_HOST: %v %v", s.Redis, err)
	}
	if _, err = parse("f", []byte(good), env(map[string]string{"CACHE_TTL": "soon"})); err == nil || !strings.Contains(err.Error(), "CACHE_TTL") {
		t.Errorf("CACHE_TTL: %v", err)
	}
}

func TestRestartNeeded(t *testing.T) {
	t.Parallel()
	a, err := parse("f", []byte(good), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := parse("f", []byte(strings.Replace(good, "30s", "20s", 1)+"log: {level: debug}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(restartNeeded(a, b), " "); got != "revocation log" {
		t.Errorf("got %q", got)
	}
}

// fenced returns the contents of a Markdown text's code blocks in language.
func fenced(text, language string) []string {
	var blocks []string
	for {
		_, rest, ok := strings.Cut(text, "\n```"+language+"\n")
		if !ok {
			return blocks
		}
		var block string
		block, text, _ = strings.Cut(rest, "\n```")
		blocks = append(blocks, block+"\n")
	}
}
