package cli

import (
	"context"
	"fmt"

	"jwtbouncer/envoy/sidecar"
)

type serveCmd struct {
	GRPC  *string `placeholder:"ADDR" help:"Overrides listen.grpc."`
	HTTP  *string `placeholder:"ADDR" help:"Overrides listen.http; an empty value disables HTTP."`
	Store *string `placeholder:"URL" help:"Overrides store; must not contain a password."`
	Redis *string `placeholder:"URL" help:"Overrides redis; must not contain a password."`
}

// Validate is called by the parser. An empty value is usually a variable that
// was not set; only for --http does it have a meaning.
func (s *serveCmd) Validate() error {
	for _, f := range s.flags() {
		if f.Value == "" && f.Name != "--http" {
			return fmt.Errorf("%s is empty; leave it out to use %s from the configuration", f.Name, f.Key)
		}
	}
	return nil
}

// flags returns the flags that were given.
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
func (s *serveCmd) Run(ctx context.Context, c *command, p *Process) error {
	load := func() (sidecar.Settings, error) { return c.settings(p, s.flags()...) }
	settings, err := load()
	if err != nil {
		return err
	}
	return sidecar.Serve(ctx, settings, sidecar.Process{Version: p.Version, Log: p.Err, File: c.Config, Reload: load})
}
