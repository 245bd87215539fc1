package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"jwtbouncer/envoy/doctor"
)

type doctorCmd struct {
	outputFlag
	EnvoyAdmin          string        `placeholder:"URL" xor:"envoy" help:"Admin address of the Envoy to examine, such as http://127.0.0.1:9901; https or a loopback address."`
	EnvoyAdminPlaintext bool          `help:"Also ask an admin address over http that is not a loopback address."`
	EnvoyConfigDump     string        `placeholder:"FILE" xor:"envoy" help:"File with the output of Envoy's /config_dump, or with a bootstrap configuration (YAML or JSON)."`
	EnvoyCluster        string        `placeholder:"NAME" help:"Envoy's cluster of the sidecar; default: found out."`
	Only                []string      `placeholder:"SECTION" enum:"files,issuers,streams,store,redis,envoy" help:"Examine these sections only: files, issuers, streams, store, redis, envoy."`
	Accept              []string      `placeholder:"ID[@TEXT]" sep:"none" help:"Accept the findings of a check or, with @TEXT, those at places that contain the text."`
	Strict              bool          `help:"Exit with 6 if there are warnings and no failures."`
	Timeout             time.Duration `default:"20s" help:"Longest time for everything."`
}

// Run implements the command.
func (d *doctorCmd) Run(ctx context.Context, c *command, p *Process) error {
	var r doctor.Report
	if err := r.Accept(d.Accept); err != nil {
		return usage(fmt.Errorf("--accept %w", err))
	}
	x := doctor.Examination{Only: d.Only, File: c.Config, Cluster: d.EnvoyCluster}
	x.Settings, x.LoadErr = c.settings(p)
	switch {
	case d.EnvoyAdmin != "":
		x.EnvoyURL = d.EnvoyAdmin
		x.Envoy = func(ctx context.Context) ([]byte, error) {
			return doctor.ReadAdmin(ctx, d.EnvoyAdmin, d.EnvoyAdminPlaintext)
		}
	case d.EnvoyConfigDump != "":
		x.EnvoyURL = kong.ExpandPath(d.EnvoyConfigDump)
		x.Envoy = func(context.Context) ([]byte, error) { return doctor.ReadFile(x.EnvoyURL) }
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	x.Run(ctx, &r)
	if err := d.printReport(p, &r); err != nil {
		return err
	}
	switch {
	case r.Count(doctor.Failure) > 0:
		return ErrNo
	case d.Strict && r.Count(doctor.Warning) > 0:
		return ErrDegraded
	}
	return nil
}

// printReport prints all results, the worst first.
func (d *doctorCmd) printReport(p *Process, r *doctor.Report) error {
	counts := map[string]int{}
	for _, s := range []doctor.Status{doctor.Failure, doctor.Warning, doctor.NotExamined, doctor.OK} {
		counts[string(s)] = r.Count(s)
	}
	return d.print(p, map[string]any{"summary": counts, "results": r.Results()}, func(w io.Writer) {
		marks := map[doctor.Status]string{doctor.Failure: "FAIL", doctor.Warning: "warn", doctor.NotExamined: "?   ", doctor.OK: "ok  "}
		for _, x := range r.Results() {
			where := ""
			if x.Where != "" {
				where = "\n      at: " + printable(x.Where)
			}
			if x.Status == doctor.OK {
				fmt.Fprintf(w, "%s  %-46s %s\n", marks[x.Status], x.ID, printable(x.Found))
				continue
			}
			fmt.Fprintf(w, "%s  %s: %s%s\n      why: %s\n      do:  %s\n", marks[x.Status], x.ID, printable(strings.TrimSpace(x.Found)), where, x.Why, x.Do)
		}
		fmt.Fprintf(w, "\n%d failure(s), %d warning(s), %d not examined, %d ok\n", counts["failure"], counts["warning"], counts["not_examined"], counts["ok"])
	})
}
