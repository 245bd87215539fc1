package sidecar

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/config"
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
revocation: {replica: on, max_staleness: 30s, sync_interval: 2s, max_token_ttl: 24h, on_revocation_unknown: deny}
headers: {claims: {x-jwt-sub: sub, x-jwt-iss: iss}, forward_authorization: true}
api: {token_file: /etc/jwt-bouncer/api-token}
routes: []
`

func TestTheDocumentedFileIsGood(t *testing.T) {
	t.Parallel()
	s, err := parse("f", []byte(good), nil)
	require.NoError(t, err)
	assert.Falsef(t, !s.Revocation.Replica || s.Redis.URL != "redis://127.0.0.1:6379/0" || s.Issuers[0].Algorithms[2] != "EdDSA" || s.Headers.Claims["x-jwt-sub"] != "sub", "%+v", s)
}

func TestErrorsNameFileLineKeyAndRemedy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ change, to, want string }{
		{"  grpc: 127.0.0.1:9191", "  grpc: nowhere", `f:3:3: listen.grpc:`},
		{"  http: 127.0.0.1:9192", "  htpp: 127.0.0.1:9192", `f:4:3: listen.htpp: unknown key; did you mean "http"?`},
		{"issuers:", "isuers:", "isuers: unknown key; did you mean \"issuers\"?"},
		{"    audiences: [api]", "    audiences: []", "issuers[0].audiences:"},
		{"RS256, ES256", "HS256, none", "issuers[0].algorithms"},
		{"sqlite:///var", "sqlit:///var", `f:10:1: store: unknown scheme "sqlit"`},
		{"max_staleness: 30s", "max_staleness: 30", "revocation.max_staleness: \"30\" is not a duration"},
		{"on_revocation_unknown: deny", "on_revocation_unknown: maybe", "revocation.on_revocation_unknown:"},
		{"x-jwt-sub: sub", "\"bad header\": sub", "headers.claims"},
		{"routes: []", "routes: [{name: a, match: {pahts: []}}]", "routes[0].match.pahts: unknown key"},
		{"redis: redis://127", "redis: http://127", "redis"},
		{"redis: redis://127.0.0.1:6379/0", "redis: \"${REDIS_URL}\"", "redis: contains a variable such as ${NAME}"},
		{"sqlite:///var/lib/jwt-bouncer/revocations.db", "${STORE}", "set the environment variable JWT_BOUNCER_STORE"},
		{"  grpc: 127.0.0.1:9191", "  grpc: \"*:9191\"", "every address is written :9191 or 0.0.0.0:9191"},
		{"  grpc: 127.0.0.1:9191", "  grpc: tcp://0.0.0.0:9191", "listen.grpc:"},
		{"  http: 127.0.0.1:9192", "  http: \"*:9192\"", "every address is written :9192 or 0.0.0.0:9192"},
		{"issuer: https://issuer.example", "issuer: https://issuer.example/.well-known/openid-configuration", "issuers[0].issuer: is the URL of a discovery document"},
		{"routes: []", "introspection: [{name: a, endpoint: https://h/i, issuer: https://h/.well-known/oauth-authorization-server, audiences: [a], client_id: a, client_secret_file: f}]", "introspection[0].issuer: is the URL of a discovery document"},
		{"api: {token_file: /etc/jwt-bouncer/api-token}", "api: {}\nlog: {level: loud}", "log.level: must be debug, info, warn or error, not \"loud\""},
	} {
		_, err := parse("f", []byte(strings.Replace(good, c.change, c.to, 1)), nil)
		if assert.Errorf(t, err, "%s, want %q", c.to, c.want) {
			assert.Containsf(t, err.Error(), c.want, "%s: got %v", c.to, err)
		}
	}
}

// A misspelt key is missing from its route. Rules that depend on the route are not
// checked then.
func TestMisspeltRouteHasNoFurtherErrors(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"match: {pahts: [{prefix: /a}]}", "mtach: {paths: [{prefix: /a}]}", "match: {paths: [{prefx: /a}]}", "match: {paths: [{prefix: a}]}"} {
		_, err := parse("f", []byte(strings.Replace(good, "routes: []", "routes: [{"+first+"}, {match: {paths: [{prefix: /b}]}}]", 1)), nil)
		if assert.Errorf(t, err, "%s", first) {
			assert.NotContainsf(t, err.Error(), "can never match", "%s: %v", first, err)
		}
	}
	_, err := parse("f", []byte(strings.Replace(good, "routes: []", "routes: [{name: all}, {match: {paths: [{prefix: /b}]}}]", 1)), nil)
	if assert.Error(t, err, "where it is so") {
		assert.Containsf(t, err.Error(), "can never match", "where it is so: %v", err)
	}
}

// Open streams are examined in memory.
func TestEndStreamsNeedsTheReplica(t *testing.T) {
	t.Parallel()
	text := strings.Replace(good, "routes: []", "routes: [{match: {paths: [{prefix: /a}]}}, {end_streams: true}]", 1)
	_, err := parse("f", []byte(text), nil)
	require.NoError(t, err)
	_, err = parse("f", []byte(strings.Replace(text, "replica: on", "replica: off", 1)), nil)
	require.ErrorContains(t, err, "routes[1].end_streams: needs revocation.replica: on")
}

// A missing key is on no line.
func TestMissingKeysHaveNoLine(t *testing.T) {
	t.Parallel()
	_, err := parse("f", []byte("log: {level: info}\n"), nil)
	if assert.Error(t, err) {
		assert.Truef(t, strings.HasPrefix(err.Error(), "f: issuers: at least one"), "got %v", err)
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := parse("f", []byte("listen: {grpc: x}\nstore: y\nlog: {level: z}\nredis: q\n"), nil)
	for _, want := range []string{"listen.grpc", "store", "log.level", "redis", "issuers: at least one issuer is needed"} {
		if assert.Errorf(t, err, "%q is missing in", want) {
			assert.Containsf(t, err.Error(), want, "%q is missing in: %v", want, err)
		}
	}
}

// What is sent to a door that nobody opens would be lost without a word.
func TestDoorsNeedTheHTTPPort(t *testing.T) {
	t.Parallel()
	for api, want := range map[string]string{
		"{logout: {audiences: [shop]}}":                               "api.logout.audiences",
		"{events: {audiences: [here]}}":                               "api.events.audiences",
		"{keycloak: {clients: [shop]}}":                               "api.keycloak.clients",
		"{clients: [{id: shop, secret_file: /etc/jwt-bouncer/shop}]}": "api.clients",
		"{token_file: /etc/jwt-bouncer/api-token}":                    "",
	} {
		text := strings.Replace(good, "api: {token_file: /etc/jwt-bouncer/api-token}", "api: "+api, 1)
		_, err := parse("f", []byte(text), nil)
		assert.NoErrorf(t, err, "%s with a port", api)
		_, err = parse("f", []byte(strings.Replace(text, "  http: 127.0.0.1:9192", `  http: ""`, 1)), nil)
		assert.Falsef(t, want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want+": the endpoint is served on listen.http")), "%s without a port: %v", api, err)
	}
}

// An invalid flag is not reported as an error of the file, even if the file sets
// the same key.
func TestErrorsOfFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, key, value, want string }{
		{"--grpc", "listen.grpc", "nonsense", `flag --grpc: listen.grpc: "nonsense"`},
		{"--http", "listen.http", "nonsense", `flag --http: listen.http: "nonsense"`},
		{"--store", "store", "mysql://x", `flag --store: store: `},
		{"--redis", "redis.url", "http://x", `flag --redis: redis.url: `},
	} {
		_, err := parse("f", []byte(good), nil, Flag{c.name, c.key, c.value})
		if assert.Errorf(t, err, "%s %s, want %s", c.name, c.value, c.want) {
			if assert.Truef(t, strings.HasPrefix(err.Error(), c.want), "%s %s: got %v, want %s", c.name, c.value, err, c.want) {
				assert.NotContainsf(t, err.Error(), "\n", "%s %s: got %v, want %s", c.name, c.value, err, c.want)
			}
		}
	}
}

func TestNoSecretsInFlags(t *testing.T) {
	t.Parallel()
	for url, bad := range map[string]bool{
		"postgres://u@h/db":  false,
		"postgres://u:@h/db": false,
		"postgres://u@h1:5432,h2:5433/db?sslmode=require": false,
		"postgres://u@h/db?passfile=/run/secrets/pass":    false,
		"sqlite:///var/lib/a:b@c.db":                      false,
		"redis://h:6379/0":                                false,
		"redis://user@h:6379/0":                           false,
		"unix:///run/redis.sock":                          false,
		"postgres://u:s3cret@h/db":                        true,
		"postgres://u:s3cret@h1:5432,h2:5433/db":          true,
		"postgres://u:s3@cret@h/db":                       true,
		"postgres://h/db?user=u&password=s3cret":          true,
		"postgres://h/db?user=u&pass%77ord=s3cret":        true,
		"postgres://h/db?sslpassword=s3cret":              true,
		"postgres://h/db?password=s3cret%":                true,
		"redis://:s3cret@h:6379/0":                        true,
		"rediss://user:s3cret@h:6379/0":                   true,
		"unix://:s3cret@/run/redis.sock":                  true,
	} {
		assert.Equalf(t, bad, hasPassword(url), "%s: %t", url, !bad)
	}
	for flag, remedy := range map[Flag]string{
		{"--store", "store", "postgres://u:s3cret@h/db"}:     "store_password_file, or give the whole URL in the file or in JWT_BOUNCER_STORE",
		{"--redis", "redis.url", "redis://:s3cret@h:6379/0"}: "redis.password_file, or give the whole URL in the file or in JWT_BOUNCER_REDIS_URL",
	} {
		_, err := parse("f", []byte(good), nil, flag)
		if assert.Errorf(t, err, "%s", flag.Name) {
			if assert.Containsf(t, err.Error(), "flag "+flag.Name+":", "%s: %v", flag.Name, err) {
				if assert.Containsf(t, err.Error(), remedy, "%s: %v", flag.Name, err) {
					assert.NotContainsf(t, err.Error(), "s3cret", "%s: %v", flag.Name, err)
				}
			}
		}
		// The environment is private to its owner.
		env := func(k string) (string, bool) { return flag.Value, k == config.EnvName(flag.Key) }
		_, err = parse("f", []byte(good), env)
		assert.NoErrorf(t, err, "%s in the environment", flag.Key)
	}
}

// Errors are printed and logged, so they quote no value that may contain a secret.
func TestNoSecretsInErrors(t *testing.T) {
	t.Parallel()
	const (
		redis = "redis: redis://127.0.0.1:6379/0"
		store = "store: sqlite:///var/lib/jwt-bouncer/revocations.db"
		jwks  = "jwks: https://issuer.example/jwks.json"
		end   = "routes: []"
	)
	for _, c := range [][2]string{
		{redis, `redis: "redis://:s3cret@host:notaport/0"`},
		{redis, `redis: "redis://:s3cret%zz@host:1/0"`},
		{redis, `redis: "redis://:s3cret@host:1/0?x=y"`},
		{redis, `redis: "http://:s3cret@host:1/0?x=y"`},
		{redis, `redis: {password: [s3cret]}`},
		{store, `store: "postgres://u:s3cret@host:notaport/db"`},
		{store, `store: "postgres://u:s3cret%zz@host/db"`},
		{store, `store: "mysql://u:s3cret@host/db"`},
		{end, `store_standby: ["postgres://u:s3cret@host:notaport/db"]`},
		{end, `store_standby: ["sqlite:///s3cret"]`},
		{end, `store_standby: ["postgres://u:s3cret@host/db"]`}, // the store is a file
		{store, `store: "postgres://u:x@s3cret/y#z@host/db"`},
		{store, `store: "postgres://u:x@s3cret@host/db"`},
		{store, `store: "postgres://u:x/s3cret@host/db"`},
		{store, `store: "postgres://u:1/s3cret@host/db"`},
		{store, `store: "postgres://u:1?s3cret@host/db"`},
		{store, `store: "postgres://u:#s3cret@host/db"`},
		{store, `store: "s3cret@host://db"`},
		{store, `store: "sqlite://s3cret/db"`},
		{redis, `redis: "redis://:Top@s3cret#x@127.0.0.1:1/0"`},
		{redis, `redis: "redis://:Top#s3cret@127.0.0.1:1/0"`},
		{redis, `redis: "redis://:1/s3cret@127.0.0.1:1/0"`},
		{redis, `redis: "s3cret@host"`},
		{redis, `redis: "redis://h/0?s3cret=x"`},
		{redis, `redis: {addrs: ["redis://:s3cret@h:1"]}`},
		{redis, `redis: {addrs: [":s3cret@h:1"]}`},
		{end, `replies: {resource_metadata: "ftp://u:s3cret@host"}`},
		{end, `routes: [{issuers: ["https://u:s3cret@host"]}]`},
		{end, `issuers: [{issuer: "https://u:s3cret@h", audiences: [a], jwks: /f}, {issuer: "https://u:s3cret@h", audiences: [a], jwks: /f}]`},
		{jwks, `jwks: "https://u:s3cret@issuer.example:x/"`},
		{jwks, `jwks: "https://u:s3cret@issuer.example/"`},
		{end, `tracing: {endpoint: "http://u:s3cret@host:x"}`},
		{end, `tracing: {endpoint: "ftp://u:s3cret@host:4317"}`},
		{end, `tracing: {endpoint: "http://u:s3cret@host:4317"}`},
		{end, `introspection: [{name: a, endpoint: "https://u:s3cret@host:x", issuer: a, audiences: [a], client_id: a, client_secret_file: f}]`},
		{end, `resource: {resource: "https://u:s3cret@host:x"}`},
	} {
		_, err := parse("f", []byte(strings.Replace(good, c[0], c[1], 1)), nil)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", c[1], err)
		}
	}
}

// A password with an unencoded delimiter would end up as the name of a host, and in
// logs. The message tells what to do.
func TestCutURLs(t *testing.T) {
	t.Parallel()
	for change, remedy := range map[[2]string]string{
		{"store: sqlite:///var/lib/jwt-bouncer/revocations.db", `store: "postgres://app:S3cr@et/Pw#rd@127.0.0.1:1/authz"`}: "store: postgres URL cannot be used: the URL is cut short: percent-encode",
		{"store: sqlite:///var/lib/jwt-bouncer/revocations.db", `store: "postgres://app:Se@cret@127.0.0.1:1/authz"`}:       "store_password_file",
		{"redis: redis://127.0.0.1:6379/0", `redis: "redis://:Top@sec#ret@127.0.0.1:1/0"`}:                                 "password_file",
		{"redis: redis://127.0.0.1:6379/0", `redis: "redis://h1,h2"`}:                                                      "list several in addrs, with cluster: true",
		{"redis: redis://127.0.0.1:6379/0", `redis: "redis://h1:1,h2:2/0"`}:                                                "master_name for Sentinels",
		{"redis: redis://127.0.0.1:6379/0", `redis: "redis+sentinel://h1:1/0"`}:                                            "master_name",
		{"redis: redis://127.0.0.1:6379/0", `redis: "valkey://h1:1/0"`}:                                                    "write redis",
	} {
		_, err := parse("f", []byte(strings.Replace(good, change[0], change[1], 1)), nil)
		assert.ErrorContains(t, err, remedy, change[1])
	}
}

func TestUnreadableFiles(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "nowhere.yaml")
	_, err := Load(name, nil)
	var invalid config.Error
	assert.ErrorAs(t, err, &invalid, "no file")
	assert.Equalf(t, name+": no such file or directory", err.Error(), "no file: %v", err)
	// Missing issuers are not reported if the text is not YAML.
	_, err = parse("f", []byte("issuers: [\n"), nil, Flag{"--grpc", "listen.grpc", "nonsense"})
	if assert.ErrorAs(t, err, &invalid, "no YAML") {
		if assert.Lenf(t, invalid, 1, "no YAML: %v", err) {
			assert.NotZerof(t, invalid[0].Line, "no YAML: %v", err)
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
	}), Flag{"--grpc", "listen.grpc", "127.0.0.1:2"}, Flag{"--http", "listen.http", ""}) // disabled, not left out
	require.NoError(t, err)
	assert.Falsef(t, s.Redis.URL != "redis://cache:6380/0" || s.Tokens.TTL != 10*time.Minute || s.Redis.MaxTTL != 10*time.Minute || s.Tokens.Enabled, "seed variables: %v %v %v", s.Redis, s.Tokens, s.Redis.MaxTTL)
	assert.Equalf(t, "127.0.0.1:2", s.Listen.GRPC, "flags %q %q, environment %s", s.Listen.GRPC, s.Listen.HTTP, s.Revocation.MaxStaleness)
	assert.Emptyf(t, s.Listen.HTTP, "flags %q %q, environment %s", s.Listen.GRPC, s.Listen.HTTP, s.Revocation.MaxStaleness)
	assert.Equalf(t, 20*time.Second, s.Revocation.MaxStaleness, "flags %q %q, environment", s.Listen.GRPC, s.Listen.HTTP)
	s, err = parse("f", []byte(good), env(map[string]string{"REDIS_HOST": "cache"}))
	if assert.NoErrorf(t, err, "the file's redis gave way to REDIS_HOST: %v %v", s.Redis, err) {
		assert.Equalf(t, "redis://127.0.0.1:6379/0", s.Redis.URL, "the file's redis gave way to REDIS_HOST: %v %v", s.Redis, err)
	}
	s, err = parse("f", []byte(good), env(map[string]string{"JWT_BOUNCER_LISTEN_HTTP": ""}))
	if assert.NoErrorf(t, err, "an empty variable is not set: %q %v", s.Listen.HTTP, err) {
		assert.Equalf(t, "127.0.0.1:9192", s.Listen.HTTP, "an empty variable is not set: %v", err)
	}
	_, err = parse("f", []byte(good), env(map[string]string{"CACHE_TTL": "soon"}))
	if assert.Error(t, err, "CACHE_TTL") {
		assert.Containsf(t, err.Error(), "CACHE_TTL", "CACHE_TTL: %v", err)
	}
}

func TestRestartNeeded(t *testing.T) {
	t.Parallel()
	a, err := parse("f", []byte(good), nil)
	require.NoError(t, err)
	b, err := parse("f", []byte(strings.Replace(good, "30s", "20s", 1)+"log: {level: debug}\n"), nil)
	require.NoError(t, err)
	assert.Equal(t, "revocation log", strings.Join(restartNeeded(a, b), " "))
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

// Every place of the configuration knows the tenants of a listed template, and
// those of any.
func TestTenantsInTheConfiguration(t *testing.T) {
	t.Parallel()
	const text = `
issuers:
  - {issuer: "https://one.example/{tenantid}/v2.0", tenants: [red, blue], audiences: [api]}
  - {issuer: "https://two.example/{tenantid}/v2.0", tenants: [any], audiences: [api]}
  - {issuer: "spiffe://three.example", allow_missing_iss: true, audiences: [api], jwks: /keys.json, key_uses: [jwt-svid]}
limits: {token_bytes: 32768}
api: {logout: {audiences: [client]}, events: {audiences: [client], speaks_for: {"https://one.example/red/v2.0": ["https://one.example/blue/v2.0"]}}}
routes:
  - {name: all, issuers: ["https://one.example/{tenantid}/v2.0"], match: {methods: [GET]}}
  - {name: one, issuers: ["https://one.example/red/v2.0", "https://two.example/green/v2.0"], match: {methods: [PUT]}}
`
	s, err := parse("f", []byte(text), nil)
	require.NoError(t, err)
	assert.Equal(t, []string{"https://one.example/red/v2.0", "https://one.example/blue/v2.0", "spiffe://three.example"}, s.TokenIssuers())
	known := s.RevocableIssuers()
	assert.True(t, known.Known("https://two.example/green/v2.0"))
	assert.False(t, known.Known("https://one.example/green/v2.0"))
	for change, want := range map[string]string{
		"one.example/red/v2.0\", \"https": "routes[1].issuers[0]: unknown issuer",
		"tenants: [any]":                  "issuers[1].tenants: must name the tenants",
		"token_bytes: 32768":              "limits.token_bytes: 99999 is out of range",
		"key_uses: [jwt-svid]":            "issuers[2].key_uses[0]",
	} {
		to := map[string]string{
			"one.example/red/v2.0\", \"https": "one.example/green/v2.0\", \"https", "tenants: [any]": "tenants: []",
			"token_bytes: 32768": "token_bytes: 99999", "key_uses: [jwt-svid]": "key_uses: [enc]",
		}[change]
		_, err := parse("f", []byte(strings.Replace(text, change, to, 1)), nil)
		assert.ErrorContains(t, err, want)
	}
}
