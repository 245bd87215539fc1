package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"jwtbouncer/authz/config"
	"jwtbouncer/authz/policytest"
	"jwtbouncer/envoy/sidecar"
)

type configCmd struct {
	Test      configTestCmd      `cmd:"" help:"Run a file of example requests against the routes."`
	Check     configCheckCmd     `cmd:"" help:"Report every error in the configuration; the exit code is 2 if there is one. Warnings name routes that no request reaches."`
	Schema    configSchemaCmd    `cmd:"" help:"Print a JSON Schema for editors."`
	Reference configReferenceCmd `cmd:"" help:"Print all keys as a Markdown table."`
}

type configCheckCmd struct {
	File  string `arg:"" optional:"" help:"The configuration file; default: the one of --config."`
	Files bool   `help:"Also read the files it names: secrets, certificates, key sets."`
}

// Run implements the command.
func (k *configCheckCmd) Run(c *command, p *Process) error {
	if k.File != "" {
		c.Config = kong.ExpandPath(k.File)
	}
	s, err := c.settings(p)
	if err != nil {
		return err
	}
	if k.Files {
		if err := s.CheckFiles(cmp.Or(c.Config, "configuration")); err != nil {
			return err
		}
	}
	routes, err := s.OfflinePolicy()
	if err != nil {
		return err
	}
	routes.Warnings(func(path, format string, args ...any) {
		fmt.Fprintf(p.Err, "warning: %s: routes%s: %s\n", cmp.Or(c.Config, "configuration"), path, printable(fmt.Sprintf(format, args...)))
	})
	fmt.Fprintf(p.Out, "the configuration is valid: %d issuer(s), %d route(s), store %s\n", len(s.Issuers), len(s.Routes), s.StoreKind())
	return nil
}

type configTestCmd struct {
	File string `arg:"" type:"existingfile" help:"YAML file of example requests and the expected decisions."`
}

// Run implements the command.
func (k *configTestCmd) Run(ctx context.Context, c *command, p *Process) error {
	s, err := c.settings(p)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(k.File)
	if err != nil {
		return fmt.Errorf("policy tests: %w", err)
	}
	var tests policytest.Tests
	f := config.Parse(k.File, text, &tests)
	tests.Validate(f.At(""))
	if err := f.Err(); err != nil {
		return err
	}
	policy, err := s.OfflinePolicy()
	if err != nil {
		return err
	}
	return p.printPolicyTests(policytest.Run(ctx, policy, tests, policytest.Options{Issuers: s.Issuers}))
}

// printPolicyTests prints the results. It returns ErrNo if a test failed.
func (p *Process) printPolicyTests(r policytest.Report) error {
	for _, t := range r.Results {
		if len(t.Wrong) == 0 {
			fmt.Fprintf(p.Out, "ok    %s\n", printable(t.Name))
			continue
		}
		fmt.Fprintf(p.Out, "FAIL  %s\n", printable(t.Name))
		for _, w := range t.Wrong {
			fmt.Fprintf(p.Out, "      %s\n", printable(w))
		}
		if t.Detail != "" {
			fmt.Fprintf(p.Out, "      because: %s\n", printable(t.Detail))
		}
	}
	fmt.Fprintf(p.Out, "%d passed, %d failed\n", len(r.Results)-r.Failed, r.Failed)
	if len(r.Untried) > 0 {
		fmt.Fprintf(p.Err, "not reached by any test: %s\n", strings.Join(r.Untried, ", "))
	}
	if r.Failed > 0 {
		return ErrNo
	}
	return nil
}

type configSchemaCmd struct{}

// Run implements the command.
func (configSchemaCmd) Run(p *Process) error {
	s := sidecar.Defaults()
	text, err := config.Schema(&s, "urn:jwt-bouncer:config", "jwt-bouncer configuration")
	if err == nil {
		_, err = fmt.Fprintf(p.Out, "%s\n", text)
	}
	return err
}

type configReferenceCmd struct{}

// Run implements the command.
func (configReferenceCmd) Run(p *Process) error {
	s := sidecar.Defaults()
	_, err := fmt.Fprint(p.Out, config.Reference(&s))
	return err
}
