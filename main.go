// Command jwt-bouncer is an Envoy external-authorization sidecar: it verifies
// bearer JWTs and makes sure that revoked ones stop working.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"golang.org/x/sys/unix"

	"jwtbouncer/authz"
	"jwtbouncer/authz/config"
	"jwtbouncer/authz/console"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/envoy/demo"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/store"
)

// version is set by the release build.
var version = "dev"

// cli is the grammar of the command line. A flag wins over the environment,
// which wins over the file.
type cli struct {
	Config string `short:"c" placeholder:"FILE" env:"JWT_BOUNCER_CONFIG" help:"Configuration file (YAML). Without it: defaults and the environment."`

	Serve       serveCmd       `cmd:"" default:"withargs" help:"Answer Envoy's authorization checks (the default)."`
	Demo        demoCmd        `cmd:"" help:"Show revocation at work: issuer, upstream, sidecar and a real Envoy on this machine."`
	Revoke      revokeCmd      `cmd:"" help:"Revoke tokens: one by its properties, or many from standard input."`
	Revocations revocationsCmd `cmd:"" help:"List or export what is revoked."`
	Check       checkCmd       `cmd:"" help:"Explain step by step why a token would pass or not."`
	Conf        configCmd      `cmd:"" name:"config" help:"Check and describe the configuration."`
	Migrate     migrateCmd     `cmd:"" help:"Bring the revocation store's schema up to date."`
	Health      healthCmd      `cmd:"" help:"Ask a running sidecar whether it is ready."`
	Version     versionCmd     `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`

	Completion completionCmd `cmd:"" help:"Print the line that sets up completion for your shell."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// streams are what commands read and write.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// AfterApply is called by the parser. A configuration file with an empty name
// is none: what a variable that was not set leaves.
func (c *cli) AfterApply() error {
	if c.Config != "" {
		c.Config = kong.ExpandPath(c.Config)
	}
	return nil
}

const description = `Envoy external authorization: verifies JWTs and makes revoked ones stop working.

Exit codes: 0: done. 1: failed. 2: the command line or the configuration is wrong. 3: the answer is no (check, health, config test).`

// run executes the command line and returns the exit code that description
// explains.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	var c cli
	parser, err := kong.New(&c, kong.Name("jwt-bouncer"), kong.UsageOnError(), kong.Writers(out, errOut),
		kong.Description(description), kong.Vars{"version": versionLine()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		fmt.Fprintln(errOut, "jwt-bouncer:", err)
		return 2
	}
	kongcompletion.Register(parser)
	k, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(errOut, "jwt-bouncer: %v\n%s\n", err, helpHint(err))
		return 2
	}
	k.BindTo(ctx, (*context.Context)(nil))
	err = k.Run(&c, &streams{in, out, errOut})
	var faults config.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &faults):
		fmt.Fprintln(errOut, faults)
		fmt.Fprintf(errOut, "jwt-bouncer: the configuration has %d fault(s); nothing was started\n", len(faults))
		return 2
	case errors.Is(err, errNo):
		return 3
	}
	fmt.Fprintln(errOut, "jwt-bouncer:", err)
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(errOut, "hint: jwt-bouncer %s --help\n", k.Selected().Path())
		return 2
	}
	return 1
}

// helpHint says where the help is that would have kept err from happening.
func helpHint(err error) string {
	command := ""
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context.Selected() != nil {
		command = " " + parse.Context.Selected().Path()
	}
	return "hint: jwt-bouncer" + command + " --help"
}

// usageError is a fault of the command line that its parser cannot see.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errNo ends a command whose answer is no (check, health, config test). What
// there is to say has been printed.
var errNo = errors.New("no")

// settings reads the configuration that every command but a few needs.
func (c *cli) settings(flags ...sidecar.Flag) (sidecar.Settings, error) {
	return sidecar.Load(c.Config, os.LookupEnv, flags...)
}

type serveCmd struct {
	GRPC  *string `placeholder:"ADDR" help:"Instead of listen.grpc."`
	HTTP  *string `placeholder:"ADDR" help:"Instead of listen.http; '' switches HTTP off."`
	Store *string `placeholder:"URL" help:"Instead of store; without a password."`
	Redis *string `placeholder:"URL" help:"Instead of redis; without a password."`
}

// Validate is called by the parser. An empty value is a shell variable that was
// not set; only of HTTP does empty mean something.
func (s *serveCmd) Validate() error {
	for _, f := range s.flags() {
		if f.Value == "" && f.Name != "--http" {
			return fmt.Errorf("%s is empty; leave it out to use %s of the configuration", f.Name, f.Key)
		}
	}
	return nil
}

// flags are those that were given.
func (s *serveCmd) flags() []sidecar.Flag {
	var given []sidecar.Flag
	for _, f := range []struct {
		name, key string
		value     *string
	}{{"--grpc", "listen.grpc", s.GRPC}, {"--http", "listen.http", s.HTTP}, {"--store", "store", s.Store}, {"--redis", "redis.url", s.Redis}} {
		if f.value != nil {
			given = append(given, sidecar.Flag{Name: f.name, Key: f.key, Value: *f.value})
		}
	}
	return given
}

// Run implements the command.
func (s *serveCmd) Run(ctx context.Context, c *cli, io *streams) error {
	load := func() (sidecar.Settings, error) { return c.settings(s.flags()...) }
	settings, err := load()
	if err != nil {
		return err
	}
	return sidecar.Serve(ctx, settings, sidecar.Process{Version: version, Log: io.err, File: c.Config, Reload: load})
}

type demoCmd struct {
	Run_     demoRunCmd      `cmd:"" name:"run" default:"withargs" help:"The whole demonstration (the default)."`
	Issuer   demoIssuerCmd   `cmd:"" help:"Only the demo issuer: gives a token to whoever asks. Never for production."`
	Upstream demoUpstreamCmd `cmd:"" help:"Only the demo upstream: answers with the headers it got."`
}

type demoRunCmd struct {
	Keep  bool   `help:"Leave everything running until Ctrl-C."`
	Envoy string `placeholder:"PATH" default:"envoy" help:"The envoy binary."`
}

// Run implements the command.
func (d *demoRunCmd) Run(ctx context.Context, io *streams) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	path, err := exec.LookPath(d.Envoy)
	if err != nil {
		return fmt.Errorf("envoy: %w\nhint: `make demo` brings it, or name one with --envoy", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	return demo.Run(ctx, demo.Options{Executable: self, Envoy: path, Keep: d.Keep, Out: io.out})
}

type demoIssuerCmd struct {
	Listen string `default:"127.0.0.1:9000" help:"host:port to listen on."`
	URL    string `default:"http://127.0.0.1:9000" help:"The issuer's name: the iss of its tokens."`
}

// Run implements the command.
func (d *demoIssuerCmd) Run(ctx context.Context) error {
	return demo.Serve(ctx, d.Listen, demo.NewIssuer(d.URL))
}

type demoUpstreamCmd struct {
	Listen string `default:"127.0.0.1:9001" help:"host:port to listen on."`
}

// Run implements the command.
func (d *demoUpstreamCmd) Run(ctx context.Context) error {
	return demo.Serve(ctx, d.Listen, demo.Upstream())
}

// admin opens the store for a command and closes it again.
func (c *cli) admin(ctx context.Context, io *streams, do func(*sidecar.Admin) error) error {
	settings, err := c.settings()
	if err != nil {
		return err
	}
	return administer(ctx, settings, io, do)
}

func administer(ctx context.Context, s sidecar.Settings, io *streams, do func(*sidecar.Admin) error) error {
	log := slog.New(slog.NewTextHandler(io.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	a, err := sidecar.OpenAdmin(ctx, s, log)
	if err != nil {
		return err
	}
	return errors.Join(do(a), a.Close())
}

type revokeCmd struct {
	JTI   *string `name:"jti" xor:"what" help:"One token, by its jti."`
	Sub   *string `name:"sub" xor:"what" help:"The tokens of a subject issued until now (or --not-before)."`
	SID   *string `name:"sid" xor:"what" help:"The tokens of a login session."`
	KID   *string `name:"kid" xor:"what" help:"The tokens signed with a key."`
	Token *string `name:"token" xor:"what" placeholder:"-|TOKEN|SHA256" help:"One token; '-' reads it from standard input, where no other user can see it. Or, in hex, the SHA-256 of its header.payload; of an opaque token, of its whole text."`
	All   bool    `xor:"what" help:"All tokens of the issuer issued until now (or --not-before); so does --iss alone."`
	Bulk  bool    `xor:"what" help:"Read orders from standard input, as POST /v1/revocations takes them: JSON objects one after another, or in arrays of any length."`

	SkipExpired bool `help:"With --bulk: pass over orders whose expires_at has passed, of which nothing is left to revoke."`

	Iss       *string `name:"iss" help:"The issuer; may be left out when one is configured."`
	NotBefore *string `placeholder:"TIME" help:"Only tokens issued before this time (RFC 3339 or Unix seconds)."`
	ExpiresAt *string `placeholder:"TIME" help:"When the last such token has expired; default: now + max_token_ttl."`
	Reason    string  `help:"For the audit trail."`
	Wait      string  `enum:"none,enforced" default:"none" help:"enforced: return when no sidecar can allow it any more."`
	JSON      bool    `name:"json" help:"Print JSON."`
}

// Validate is called by the parser.
func (r *revokeCmd) Validate() error {
	if r.Bulk && (r.Iss != nil || r.NotBefore != nil || r.ExpiresAt != nil || r.Reason != "") {
		return errors.New("--bulk can't be used together with --iss, --not-before, --expires-at or --reason: each order says its own")
	}
	if r.SkipExpired && !r.Bulk {
		return errors.New("--skip-expired is for --bulk")
	}
	return nil
}

// Run implements the command.
func (r *revokeCmd) Run(ctx context.Context, c *cli, io *streams) error {
	wait := authz.WaitCommitted
	if r.Wait == "enforced" {
		wait = authz.WaitEnforced
	}
	p := console.Printer{Out: io.out, Err: io.err, JSON: r.JSON, Progress: isTerminal(io.err)}
	s, err := c.settings()
	if err != nil {
		return err
	}
	parse := func(text []byte) ([]authz.Revocation, error) {
		if r.SkipExpired && httpapi.OrderExpired(text, time.Now()) {
			return nil, nil
		}
		orders, err := httpapi.ParseOrders(text, s.OrderIssuers(), time.Now())
		for i := range orders {
			orders[i].Actor = actor()
		}
		return orders, err
	}
	var orders []authz.Revocation
	if !r.Bulk {
		body, err := r.order(io.in)
		if err != nil {
			return err
		}
		if orders, err = parse(body); err != nil {
			return usageError{err}
		}
	}
	return administer(ctx, s, io, func(a *sidecar.Admin) error {
		switch err := a.Usable(ctx); {
		case err != nil:
			return err
		case r.Bulk:
			return p.RevokeAll(ctx, a.Revoker(), io.in, parse, wait)
		}
		err := p.Revoke(ctx, a.Revoker(), orders, wait)
		if errors.Is(err, authz.ErrInvalid) {
			return usageError{err}
		}
		return err
	})
}

// order writes the flags as the HTTP API would take them, so that both doors
// have one set of rules.
func (r *revokeCmd) order(stdin io.Reader) ([]byte, error) {
	if r.Token != nil {
		text, err := readToken(*r.Token, stdin)
		if err != nil {
			return nil, err
		}
		r.Token = &text
	}
	doc := map[string]any{}
	// An empty text is passed on and refused, as a time below, too: it is a
	// variable that was not set, and without it the order would be about more
	// than was meant.
	for name, value := range map[string]*string{"jti": r.JTI, "sub": r.Sub, "sid": r.SID, "kid": r.KID, "token": r.Token, "iss": r.Iss} {
		if value != nil {
			doc[name] = *value
		}
	}
	if _, named := doc["iss"]; r.All || named && len(doc) == 1 {
		doc["all"] = true
	}
	if r.Reason != "" {
		doc["reason"] = r.Reason
	}
	for name, value := range map[string]*string{"not_before": r.NotBefore, "expires_at": r.ExpiresAt} {
		if value == nil {
			continue
		}
		// JSON has no NaN and no infinity; as texts they are refused as such.
		if seconds, err := strconv.ParseFloat(*value, 64); err == nil && !math.IsNaN(seconds) && !math.IsInf(seconds, 0) {
			doc[name] = seconds
		} else {
			doc[name] = *value
		}
	}
	return json.Marshal(doc)
}

// actor names who ordered a revocation on the command line.
func actor() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return "cli:" + name
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

type revocationsCmd struct {
	List   listCmd   `cmd:"" default:"withargs" help:"Newest first."`
	Export exportCmd `cmd:"" help:"Every live revocation as JSON lines: for audit, analysis, and to order them again (docs/operations.md)."`
}

type filterFlags struct {
	Kind    string `enum:",jti,sub,sid,kid,iss,token" default:"" help:"Only this kind."`
	Iss     string `name:"iss" help:"Only this issuer."`
	Value   string `help:"Only this jti, sub, sid or kid."`
	Expired bool   `help:"Also those that have expired but are still kept."`
}

func (f filterFlags) filter() authz.Filter {
	kind, _ := authz.ParseKind(f.Kind) // the enum lets nothing else through
	return authz.Filter{Kind: kind, Issuer: f.Iss, Value: f.Value, IncludeExpired: f.Expired}
}

type listCmd struct {
	filterFlags
	Limit int  `default:"100" help:"At most so many; 0: all."`
	JSON  bool `name:"json" help:"Print JSON, one object a line."`
}

// Run implements the command.
func (l *listCmd) Run(ctx context.Context, c *cli, io *streams) error {
	return listRevocations(ctx, c, io, l.filter(), l.Limit, l.JSON)
}

type exportCmd struct{ filterFlags }

// Run implements the command.
func (e *exportCmd) Run(ctx context.Context, c *cli, io *streams) error {
	return listRevocations(ctx, c, io, e.filter(), 0, true)
}

func listRevocations(ctx context.Context, c *cli, io *streams, f authz.Filter, limit int, asJSON bool) error {
	return c.admin(ctx, io, func(a *sidecar.Admin) error {
		if err := a.Usable(ctx); err != nil {
			return err
		}
		return console.Printer{Out: io.out, Err: io.err, JSON: asJSON}.List(ctx, a.Store, f, limit)
	})
}

type checkCmd struct {
	Token   string            `arg:"" optional:"" default:"-" help:"The token; '-' (the default) reads it from standard input, where no other user can see it."`
	Request string            `default:"GET /" help:"Method and URL it would be presented with, such as 'POST https://api.example/orders'."`
	Header  map[string]string `help:"Further request headers, name=value."`
	Network bool              `help:"Keys may be fetched, and the store asked whether the token is revoked. Without it only files are read."`
	JSON    bool              `name:"json" help:"Print JSON."`
}

// Run implements the command.
func (k *checkCmd) Run(ctx context.Context, c *cli, io *streams) error {
	s, err := c.settings()
	if err != nil {
		return err
	}
	token, err := readToken(k.Token, io.in)
	if err != nil {
		return err
	}
	req, err := sidecar.ExampleRequest(k.Request, k.Header, token)
	if err != nil {
		return usageError{err}
	}
	steps, err := sidecar.Explain(ctx, s, req, k.Network)
	if err != nil {
		return err
	}
	if !(console.Printer{Out: io.out, Err: io.err, JSON: k.JSON}).Explanation(steps) {
		return errNo
	}
	return nil
}

// readToken returns the argument, or what standard input holds.
func readToken(arg string, stdin io.Reader) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	text, err := io.ReadAll(io.LimitReader(stdin, 64<<10))
	return strings.TrimSpace(string(text)), err
}

type configCmd struct {
	Test      configTestCmd      `cmd:"" help:"Run a file of example requests against the routes."`
	Check     configCheckCmd     `cmd:"" help:"Report every fault of the configuration; exit code 2 when there is one."`
	Schema    configSchemaCmd    `cmd:"" help:"Print a JSON Schema, for editors."`
	Reference configReferenceCmd `cmd:"" help:"Print every key as a Markdown table."`
}

type configCheckCmd struct {
	File  string `arg:"" optional:"" help:"The file; without it the one of --config."`
	Files bool   `help:"Read the files it names as well: secrets, certificates, key sets."`
}

// Run implements the command.
func (k *configCheckCmd) Run(c *cli, io *streams) error {
	if k.File != "" {
		c.Config = kong.ExpandPath(k.File)
	}
	s, err := c.settings()
	if err != nil {
		return err
	}
	if k.Files {
		if err := s.CheckFiles(cmp.Or(c.Config, "configuration")); err != nil {
			return err
		}
	}
	fmt.Fprintf(io.out, "the configuration is good: %d issuer(s), %d route(s), store %s\n", len(s.Issuers), len(s.Routes), s.StoreKind())
	return nil
}

type configTestCmd struct {
	File string `arg:"" type:"existingfile" help:"YAML file of example requests and the decisions they must get."`
}

// Run implements the command.
func (k *configTestCmd) Run(ctx context.Context, c *cli, io *streams) error {
	s, err := c.settings()
	if err != nil {
		return err
	}
	report, err := sidecar.TestPolicy(ctx, s, k.File)
	if err != nil {
		return err
	}
	if !(console.Printer{Out: io.out, Err: io.err}).PolicyTests(report) {
		return errNo
	}
	return nil
}

type configSchemaCmd struct{}

// Run implements the command.
func (configSchemaCmd) Run(io *streams) error {
	s := sidecar.Defaults()
	text, err := config.Schema(&s, "urn:jwt-bouncer:config", "jwt-bouncer configuration")
	if err == nil {
		_, err = fmt.Fprintf(io.out, "%s\n", text)
	}
	return err
}

type configReferenceCmd struct{}

// Run implements the command.
func (configReferenceCmd) Run(io *streams) error {
	s := sidecar.Defaults()
	_, err := fmt.Fprint(io.out, config.Reference(&s))
	return err
}

type migrateCmd struct {
	BumpEpoch bool   `help:"Also make every sidecar reload all revocations: after a restore from a backup."`
	Bridge    string `placeholder:"ISSUER" help:"Also let rows inserted into an existing table revoked_tokens flow in, as tokens of this issuer."`
}

// Run implements the command.
func (m *migrateCmd) Run(ctx context.Context, c *cli, io *streams) error {
	return c.admin(ctx, io, func(a *sidecar.Admin) error {
		if err := a.Store.Migrate(ctx); err != nil {
			return err
		}
		fmt.Fprintf(io.out, "%s: schema is at version %d\n", a.Store.Name(), store.SchemaVersion)
		if m.Bridge != "" {
			n, err := a.Store.InstallBridge(ctx, store.BridgeOptions{Issuer: m.Bridge})
			if err != nil {
				return err
			}
			fmt.Fprintf(io.out, "bridge from revoked_tokens is in place, %d rows taken over\n", n)
		}
		if m.BumpEpoch {
			if err := a.Store.BumpEpoch(ctx); err != nil {
				return err
			}
			fmt.Fprintln(io.out, "epoch raised: every sidecar reloads")
		}
		return nil
	})
}

type healthCmd struct {
	Address string        `placeholder:"ADDR" help:"host:port of the sidecar's HTTP port; default: listen.http."`
	Live    bool          `help:"Ask whether it lives, not whether it is ready."`
	Timeout time.Duration `default:"3s" help:"Longest wait."`
}

// Run implements the command.
func (h *healthCmd) Run(ctx context.Context, c *cli, io *streams) error {
	if h.Address == "" {
		s, err := c.settings()
		if err != nil {
			return err
		}
		if h.Address = s.Listen.HTTP; h.Address == "" {
			return usageError{errors.New("listen.http is empty, so the sidecar serves no HTTP and cannot be asked; set it, or name the HTTP port of a sidecar with --address")}
		}
	} else if _, _, err := net.SplitHostPort(h.Address); err != nil {
		return usageError{fmt.Errorf("--address %q: host:port is needed, such as 127.0.0.1:9192", h.Address)}
	}
	path := "/readyz"
	if h.Live {
		path = "/livez"
	}
	well, err := console.Printer{Out: io.out, Err: io.err}.Health(ctx, h.Address, path, h.Timeout)
	if err == nil && !well {
		return errNo
	}
	return err
}

type versionCmd struct{}

// Run implements the command.
func (versionCmd) Run(io *streams) error {
	_, err := fmt.Fprintln(io.out, versionLine())
	return err
}

func versionLine() string {
	return fmt.Sprintf("jwt-bouncer %s (%s %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run implements the command.
func (k *completionCmd) Run(io *streams) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	line := "complete -C %q jwt-bouncer\n"
	switch k.Shell {
	case "zsh":
		line = "autoload -U +X bashcompinit && bashcompinit\n" + line
	case "fish":
		line = "complete -c jwt-bouncer -f -a '(COMP_LINE=(commandline -cp) %s)'\n"
	}
	_, err = fmt.Fprintf(io.out, line, self)
	return err
}
