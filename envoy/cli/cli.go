// Package cli is the command line: one file per command. A command reads its
// flags, calls the packages that do the work, and prints the result. It never
// prints a token.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"

	"jwtbouncer/envoy/sidecar"
)

// Process is what a command gets from the process that runs it.
type Process struct {
	Version string
	Env     func(name string) (value string, set bool)
	In      io.Reader
	Out     io.Writer // results
	Err     io.Writer // progress, hints and logs
}

// ErrNo is the error of a command whose answer is no (check, health, config
// test). The command has printed the reasons.
var ErrNo = errors.New("no")

// UsageError says that the command line is wrong.
type UsageError struct {
	Err     error
	Command string // the selected command, such as "config check"; empty: none
}

func (e *UsageError) Error() string {
	return fmt.Sprintf("%v\nhint: %s --help", e.Err, strings.TrimSpace("jwt-bouncer "+e.Command))
}

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// usage makes err a UsageError; Run adds the command.
func usage(err error) error { return &UsageError{Err: err} }

// command is the grammar of the command line. A flag overrides the environment,
// which overrides the configuration file.
type command struct {
	Config string `short:"c" placeholder:"FILE" default:"${config}" help:"Configuration file (YAML); without one, defaults and the environment apply ($$JWT_BOUNCER_CONFIG)."`

	Serve       serveCmd       `cmd:"" default:"withargs" help:"Answer Envoy's authorization checks (default)."`
	Revoke      revokeCmd      `cmd:"" help:"Revoke one token or a group of tokens, or import revocations from standard input."`
	Revocations revocationsCmd `cmd:"" help:"List or export revocations."`
	Check       checkCmd       `cmd:"" help:"Explain step by step whether a token would be allowed."`
	Conf        configCmd      `cmd:"" name:"config" help:"Check and describe the configuration."`
	Migrate     migrateCmd     `cmd:"" help:"Bring the revocation store's schema up to date."`
	Doctor      doctorCmd      `cmd:"" help:"Examine files, issuers, store, Redis, clocks and the configuration of Envoy, and say what to do."`
	Health      healthCmd      `cmd:"" help:"Ask a running sidecar whether it is ready."`
	Version     versionCmd     `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`

	Completion completionCmd `cmd:"" help:"Print the line that enables completion in a shell."`
}

// AfterApply is called by the parser. An empty file name means no file: it is
// usually a variable that was not set.
func (c *command) AfterApply() error {
	if c.Config != "" {
		c.Config = kong.ExpandPath(c.Config)
	}
	return nil
}

const description = `Envoy external authorization: verifies JWTs and makes revoked ones stop working.

Exit codes: 0: done. 1: failed. 2: the command line or the configuration is invalid. 3: the answer is no (check, health, config test), or doctor found failures. 4: doctor --strict found warnings.`

// Run executes the command line. The error is a *UsageError, a config.Error,
// ErrNo, or the reason why the command failed.
func Run(ctx context.Context, args []string, p Process) error {
	var c command
	file, _ := p.Env("JWT_BOUNCER_CONFIG")
	parser, err := kong.New(&c, kong.Name("jwt-bouncer"), kong.UsageOnError(), kong.Writers(p.Out, p.Err),
		kong.Description(description), kong.Vars{"version": p.version(), "config": file},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		return err
	}
	kongcompletion.Register(parser)
	k, err := parser.Parse(args)
	if err != nil {
		selected := ""
		var parse *kong.ParseError
		if errors.As(err, &parse) && parse.Context.Selected() != nil {
			selected = parse.Context.Selected().Path()
		}
		return &UsageError{Err: err, Command: selected}
	}
	k.BindTo(ctx, (*context.Context)(nil))
	err = k.Run(&c, &p)
	var wrong *UsageError
	if errors.As(err, &wrong) {
		wrong.Command = k.Selected().Path()
	}
	return err
}

// settings reads the configuration. The flags override it.
func (c *command) settings(p *Process, flags ...sidecar.Flag) (sidecar.Settings, error) {
	return sidecar.Load(c.Config, p.Env, flags...)
}

func (p *Process) version() string {
	return fmt.Sprintf("jwt-bouncer %s (%s %s/%s)", p.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// readToken returns the argument, or for "-" the content of standard input.
func readToken(arg string, stdin io.Reader) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	text, err := io.ReadAll(io.LimitReader(stdin, 64<<10))
	return strings.TrimSpace(string(text)), err
}

// printable replaces control characters, with which a token or a file could
// steer the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// cell is printable text for one cell of a table.
func cell(s string) string {
	if s == "" {
		return "-"
	}
	const longest = 60
	q := strconv.Quote(s)
	q = q[1 : len(q)-1]
	if len(q) > longest {
		q = q[:longest-1] + "…"
	}
	return q
}
