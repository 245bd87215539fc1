// Command demo shows the product at work on one machine: an issuer, an
// upstream, the jwt-bouncer binary on SQLite and a real Envoy in front of them,
// everything on loopback. It is for trying out and never for production: its
// issuer gives a token to every caller.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alecthomas/kong"
)

// command is the grammar of the command line.
type command struct {
	Run_     runCmd      `cmd:"" name:"run" default:"withargs" help:"Run the whole demonstration (the default)."`
	Issuer   issuerCmd   `cmd:"" help:"Run only the issuer, which gives a token to every caller. Never for production."`
	Upstream upstreamCmd `cmd:"" help:"Run only the upstream, which answers with the headers that reached it."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	k := kong.Parse(&command{}, kong.Name("demo"), kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	k.BindTo(ctx, (*context.Context)(nil))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

type runCmd struct {
	Keep   bool   `help:"Leave everything running until Ctrl-C."`
	Binary string `placeholder:"PATH" default:"bin/jwt-bouncer" help:"The jwt-bouncer binary (default: ${default})."`
	Envoy  string `placeholder:"PATH" default:"envoy" help:"The envoy binary (default: ${default} in PATH)."`
}

// Run implements the command.
func (r *runCmd) Run(ctx context.Context) error {
	binary, err := executable(r.Binary, "`make build` builds it, or name one with --binary")
	if err != nil {
		return err
	}
	envoy, err := executable(r.Envoy, "`make demo` fetches it, or name one with --envoy")
	if err != nil {
		return err
	}
	return run(ctx, options{binary: binary, envoy: envoy, keep: r.Keep, out: os.Stdout})
}

// executable returns the absolute path of a program, because the children have
// a working directory of their own.
func executable(name, hint string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w\nhint: %s", err, hint)
	}
	return filepath.Abs(path)
}

type issuerCmd struct {
	Listen string `default:"127.0.0.1:9000" help:"host:port to listen on."`
	URL    string `default:"http://127.0.0.1:9000" help:"The issuer's name: the iss of its tokens."`
}

// Run implements the command.
func (i *issuerCmd) Run(ctx context.Context) error {
	return serve(ctx, i.Listen, newIssuer(i.URL))
}

type upstreamCmd struct {
	Listen string `default:"127.0.0.1:9001" help:"host:port to listen on."`
}

// Run implements the command.
func (u *upstreamCmd) Run(ctx context.Context) error {
	return serve(ctx, u.Listen, upstream())
}
