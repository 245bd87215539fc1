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
	"github.com/posener/complete"

	"jwtbouncer/authz/config"
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
	Config string `short:"c" placeholder:"FILE" default:"${config}" predictor:"file" help:"Configuration file (YAML); without one, defaults and the environment apply ($$JWT_BOUNCER_CONFIG)."`

	Serve       serveCmd       `cmd:"" default:"withargs" help:"Answer Envoy's authorization checks (default)."`
	Init        initCmd        `cmd:"" help:"Write a configuration for an identity provider, and the files for the proxy."`
	Revoke      revokeCmd      `cmd:"" help:"Revoke one token or a group of tokens, or import revocations from standard input."`
	Revocations revocationsCmd `cmd:"" help:"List or export revocations."`
	Streams     streamsCmd     `cmd:"" help:"Manage the Shared Signals event streams that a transmitter sends to this receiver."`
	Check       checkCmd       `cmd:"" help:"Explain step by step whether a token would be allowed."`
	Conf        configCmd      `cmd:"" name:"config" help:"Check and describe the configuration."`
	Migrate     migrateCmd     `cmd:"" help:"Bring the revocation store's schema up to date."`
	Doctor      doctorCmd      `cmd:"" help:"Examine files, issuers, event streams, store, Redis, clocks and the configuration of Envoy, and say what to do."`
	Health      healthCmd      `cmd:"" help:"Ask a running sidecar whether it is ready."`
	Version     versionCmd     `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`

	Completion completionCmd `cmd:"" help:"Print the line that enables completion in a shell."`
	Man        manCmd        `cmd:"" hidden:"" help:"Print the manual page."`
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

Exit codes: 0: done. 1: failed. 2: the command line or the configuration is invalid. 3: the answer is no (check, health, config test, streams status, streams verify), or there are failures (doctor). 4: the schema is there, but roles are missing (migrate). 5: allowed as far as checked, but steps were skipped (check). 6: ready, but degraded (health --strict), or there are warnings (doctor --strict).`

// Run executes the command line. The error is a *UsageError, a config.Error, an
// Answer, or the reason why the command failed.
func Run(ctx context.Context, args []string, p Process) error {
	var c command
	file, _ := p.Env("JWT_BOUNCER_CONFIG")
	parser, err := kong.New(&c, kong.Name("jwt-bouncer"), kong.UsageOnError(), kong.Writers(p.Out, p.Err),
		kong.Description(description), kong.Vars{"version": p.build().String(), "config": file},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		return err
	}
	kongcompletion.Register(parser, kongcompletion.WithPredictor("file", complete.PredictFiles("*")))
	k, err := parser.Parse(args)
	if err != nil {
		return unparsed(err)
	}
	k.BindTo(ctx, (*context.Context)(nil))
	err = k.Run(&c, &p)
	var wrong *UsageError
	if errors.As(err, &wrong) {
		wrong.Command = k.Selected().Path()
	}
	return err
}

// unparsed makes a parser's error a UsageError. It adds the command that a word
// resembles: the parser takes a misspelt command for an argument of the default one.
func unparsed(err error) error {
	wrong := &UsageError{Err: err}
	var parse *kong.ParseError
	if !errors.As(err, &parse) || parse.Context.Selected() == nil {
		return wrong
	}
	selected := parse.Context.Selected()
	wrong.Command = selected.Path()
	word, unexpected := strings.CutPrefix(err.Error(), "unexpected argument ")
	if above := selected.Parent; unexpected && above != nil && above.DefaultCmd == selected {
		wrong.Command = above.Path()
		var names []string
		for _, n := range above.Children {
			if !n.Hidden {
				names = append(names, n.Name)
			}
		}
		if name := config.Nearest(word, names); name != "" {
			wrong.Err = fmt.Errorf("%w, did you mean %q?", err, name)
		}
	}
	return wrong
}

// settings reads the configuration. The flags override it.
func (c *command) settings(p *Process, flags ...sidecar.Flag) (sidecar.Settings, error) {
	s, err := sidecar.Load(c.Config, p.Env, flags...)
	var wrong config.Error
	if c.Config == "" && errors.As(err, &wrong) {
		err = append(config.Error{{Source: "configuration", Detail: "no file is named; name it with --config FILE or in the variable JWT_BOUNCER_CONFIG"}}, wrong...)
	}
	return s, err
}

// build says what the program was built from.
type build struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func (b build) String() string {
	return fmt.Sprintf("jwt-bouncer %s (%s %s/%s)", b.Version, b.Go, b.OS, b.Arch)
}

func (p *Process) build() build {
	return build{p.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
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
