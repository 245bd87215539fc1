// Command jwt-bouncer is an Envoy external-authorization sidecar: it verifies
// bearer JWTs and makes sure that revoked ones stop working.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"jwtbouncer/authz/config"
	"jwtbouncer/envoy/cli"
)

// version is set by the release build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := cli.Run(ctx, os.Args[1:], cli.Process{Version: version, Env: os.LookupEnv, In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	os.Exit(exitCode(err))
}

// exitCode prints what err has to say and returns the exit code that the help
// explains.
func exitCode(err error) int {
	var invalid config.Error
	var usage *cli.UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &invalid):
		fmt.Fprintln(os.Stderr, invalid)
		fmt.Fprintf(os.Stderr, "jwt-bouncer: %d error(s) in the configuration; nothing was started\n", len(invalid))
		return 2
	case errors.Is(err, cli.ErrNo):
		return 3
	case errors.Is(err, cli.ErrWarnings):
		return 4
	}
	fmt.Fprintln(os.Stderr, "jwt-bouncer:", err)
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}
