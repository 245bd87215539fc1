package cli

import (
	"cmp"
	"context"
	"fmt"
	"jwtbouncer/authz/config"
	"jwtbouncer/envoy/sidecar"

	"github.com/alecthomas/kong"
)

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
func (k *configCheckCmd) Run(c *command, io *Process) error {
	if k.File != "" {
		c.Config = kong.ExpandPath(k.File)
	}
	s, err := c.settings(io)
	if err != nil {
		return err
	}
	if k.Files {
		if err := s.CheckFiles(cmp.Or(c.Config, "configuration")); err != nil {
			return err
		}
	}
	fmt.Fprintf(io.Out, "the configuration is good: %d issuer(s), %d route(s), store %s\n", len(s.Issuers), len(s.Routes), s.StoreKind())
	return nil
}

type configTestCmd struct {
	File string `arg:"" type:"existingfile" help:"YAML file of example requests and the decisions they must get."`
}

// Run implements the command.
func (k *configTestCmd) Run(ctx context.Context, c *command, io *Process) error {
	s, err := c.settings(io)
	if err != nil {
		return err
	}
	report, err := testPolicy(ctx, s, k.File)
	if err != nil {
		return err
	}
	if !(Printer{Out: io.Out, Err: io.Err}).PolicyTests(report) {
		return ErrNo
	}
	return nil
}

type configSchemaCmd struct{}

// Run implements the command.
func (configSchemaCmd) Run(io *Process) error {
	s := sidecar.Defaults()
	text, err := config.Schema(&s, "urn:jwt-bouncer:config", "jwt-bouncer configuration")
	if err == nil {
		_, err = fmt.Fprintf(io.Out, "%s\n", text)
	}
	return err
}

type configReferenceCmd struct{}

// Run implements the command.
func (configReferenceCmd) Run(io *Process) error {
	s := sidecar.Defaults()
	_, err := fmt.Fprint(io.Out, config.Reference(&s))
	return err
}
