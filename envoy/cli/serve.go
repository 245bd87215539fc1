package cli

import (
	"context"
	"fmt"
	"jwtbouncer/envoy/sidecar"
)

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
func (s *serveCmd) Run(ctx context.Context, c *command, io *Process) error {
	load := func() (sidecar.Settings, error) { return c.settings(io, s.flags()...) }
	settings, err := load()
	if err != nil {
		return err
	}
	return sidecar.Serve(ctx, settings, sidecar.Process{Version: io.Version, Log: io.Err, File: c.Config, Reload: load})
}
