package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	outputFlag
	File  string `arg:"" optional:"" predictor:"file" help:"The configuration file; default: the one of --config."`
	Files bool   `help:"Also read the files it names: secrets, certificates, key sets."`
}

// Help is shown by config check --help.
func (*configCheckCmd) Help() string {
	return "It opens no connection: store, Redis and issuers need not exist yet."
}

// configReport is the result of config check.
type configReport struct {
	Valid    bool          `json:"valid"`
	Issuers  int           `json:"issuers"`
	Routes   int           `json:"routes"`
	Store    string        `json:"store,omitempty"`
	Errors   []configFault `json:"errors"`
	Warnings []string      `json:"warnings"`
}

type configFault struct {
	Source  string `json:"source"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Key     string `json:"key,omitempty"`
	Message string `json:"message"`
}

// Run implements the command.
func (k *configCheckCmd) Run(c *command, p *Process) error {
	if k.File != "" {
		c.Config = kong.ExpandPath(k.File)
	}
	report, err := k.check(c, p)
	var invalid config.Error
	if err != nil && !errors.As(err, &invalid) {
		return err
	}
	if k.isTable() && err != nil {
		return err // main prints it
	}
	for _, e := range invalid {
		report.Errors = append(report.Errors, configFault{e.Source, e.Line, e.Column, e.Field, e.Detail})
	}
	return errors.Join(k.print(p, report, func(w io.Writer) {
		fmt.Fprintf(w, "the configuration is valid: %d issuer(s), %d route(s), store %s\n", report.Issuers, report.Routes, report.Store)
	}), err)
}

func (k *configCheckCmd) check(c *command, p *Process) (configReport, error) {
	report := configReport{Errors: []configFault{}, Warnings: []string{}}
	name := cmp.Or(c.Config, "configuration")
	s, err := c.settings(p)
	if err != nil {
		return report, err
	}
	report.Issuers, report.Routes, report.Store = len(s.Issuers), len(s.Routes), s.StoreKind()
	if k.Files {
		if err := s.CheckFiles(name); err != nil {
			return report, err
		}
	}
	routes, err := s.OfflinePolicy()
	if err != nil {
		return report, err
	}
	routes.Warnings(func(path, format string, args ...any) {
		text := fmt.Sprintf("%s: routes%s: %s", name, path, printable(fmt.Sprintf(format, args...)))
		report.Warnings = append(report.Warnings, text)
		fmt.Fprintln(p.Err, "warning:", text)
	})
	report.Valid = true
	return report, nil
}

type configTestCmd struct {
	Output string `short:"o" placeholder:"FORM" enum:"table,json,yaml,junit" default:"table" help:"Form of the result: table (text for people), json, yaml, or junit (XML for CI systems)."`
	File   string `arg:"" type:"existingfile" predictor:"file" help:"YAML file of example requests and the expected decisions."`
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
	return k.report(p, policytest.Run(ctx, policy, tests, policytest.Options{Issuers: s.Issuers}))
}

// report prints the results. It returns ErrNo if a test failed.
func (k *configTestCmd) report(p *Process, r policytest.Report) error {
	var err error
	if k.Output == "junit" {
		err = r.WriteJUnit(p.Out, filepath.Base(k.File))
	} else {
		err = outputFlag{k.Output}.print(p, newTestReport(r), func(w io.Writer) { printPolicyTests(w, r) })
	}
	if len(r.Untried) > 0 {
		fmt.Fprintf(p.Err, "not reached by any test: %s\n", strings.Join(r.Untried, ", "))
	}
	if err == nil && r.Failed > 0 {
		return ErrNo
	}
	return err
}

func printPolicyTests(w io.Writer, r policytest.Report) {
	for _, t := range r.Results {
		if len(t.Wrong) == 0 {
			fmt.Fprintf(w, "ok    %s\n", printable(t.Name))
			continue
		}
		fmt.Fprintf(w, "FAIL  %s\n", printable(t.Name))
		for _, wrong := range t.Wrong {
			fmt.Fprintf(w, "      %s\n", printable(wrong))
		}
		if t.Detail != "" {
			fmt.Fprintf(w, "      because: %s\n", printable(t.Detail))
		}
	}
	fmt.Fprintf(w, "%d passed, %d failed\n", len(r.Results)-r.Failed, r.Failed)
}

// testReport is the result of config test.
type testReport struct {
	Passed  int          `json:"passed"`
	Failed  int          `json:"failed"`
	Tests   []testResult `json:"tests"`
	Untried []string     `json:"routes_not_reached"`
}

type testResult struct {
	Name    string   `json:"name"`
	Passed  bool     `json:"passed"`
	Wrong   []string `json:"wrong,omitempty"`
	Reason  string   `json:"reason"`
	Route   string   `json:"route,omitempty"`
	Because string   `json:"because,omitempty"`
}

func newTestReport(r policytest.Report) testReport {
	out := testReport{Passed: len(r.Results) - r.Failed, Failed: r.Failed, Tests: make([]testResult, len(r.Results)), Untried: append([]string{}, r.Untried...)}
	for i, t := range r.Results {
		out.Tests[i] = testResult{t.Name, len(t.Wrong) == 0, t.Wrong, t.Reason.String(), t.Route, t.Detail}
	}
	return out
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
