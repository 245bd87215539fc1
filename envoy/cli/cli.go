// Package cli is the command line: one file per command, which reads the
// flags, calls the packages that do the work, and prints the result. It never
// prints a token.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"

	"jwtbouncer/envoy/sidecar"
)

// Process is what a command gets from the process that runs it.
type Process struct {
	Version string
	Env     func(name string) (value string, set bool) // os.LookupEnv
	In      io.Reader
	Out     io.Writer // results
	Err     io.Writer // progress, hints and errors
}

// ErrNo is the error of a command whose answer is no (check, health, config
// test). The command has printed its reasons.
var ErrNo = errors.New("no")

// UsageError is an error of the command line, as opposed to one of its execution.
type UsageError struct {
	Err     error
	Command string // path of the command that was selected; empty: none
}

// Error implements error.
func (e UsageError) Error() string {
	command := ""
	if e.Command != "" {
		command = " " + e.Command
	}
	return fmt.Sprintf("%v\nhint: jwt-bouncer%s --help", e.Err, command)
}

// Unwrap returns the cause.
func (e UsageError) Unwrap() error { return e.Err }

// command is the grammar of the command line. A flag wins over the environment,
// which wins over the file.
type command struct {
	Config string `short:"c" placeholder:"FILE" env:"JWT_BOUNCER_CONFIG" help:"Configuration file (YAML). Without it: defaults and the environment."`

	Serve       serveCmd       `cmd:"" default:"withargs" help:"Answer Envoy's authorization checks (the default)."`
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

// AfterApply is called by the parser. A configuration file with an empty name
// is none: what a variable that was not set leaves.
func (c *command) AfterApply() error {
	if c.Config != "" {
		c.Config = kong.ExpandPath(c.Config)
	}
	return nil
}

const description = `Envoy external authorization: verifies JWTs and makes revoked ones stop working.

Exit codes: 0: done. 1: failed. 2: the command line or the configuration is wrong. 3: the answer is no (check, health, config test).`

// Run parses the command line and executes its command. Its error is a
// UsageError, a config.Error, ErrNo, or the reason why the command failed.
func Run(ctx context.Context, args []string, p Process) error {
	var c command
	parser, err := kong.New(&c, kong.Name("jwt-bouncer"), kong.UsageOnError(), kong.Writers(p.Out, p.Err),
		kong.Description(description), kong.Vars{"version": p.versionLine()},
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
		return UsageError{Err: err, Command: selected}
	}
	k.BindTo(ctx, (*context.Context)(nil))
	err = k.Run(&c, &p)
	var usage usageError
	if errors.As(err, &usage) {
		return UsageError{Err: err, Command: k.Selected().Path()}
	}
	return err
}

// usageError is a fault of the command line that its parser cannot see.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// settings reads the configuration that every command but a few needs.
func (c *command) settings(p *Process, flags ...sidecar.Flag) (sidecar.Settings, error) {
	return sidecar.Load(c.Config, p.Env, flags...)
}

func (p *Process) versionLine() string {
	return fmt.Sprintf("jwt-bouncer %s (%s %s/%s)", p.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
