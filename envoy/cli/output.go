package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
)

// Forms of a result.
const (
	outputJSON = "json"
	outputYAML = "yaml"
)

// outputFlag chooses the form of a command's result; the zero value is a table.
type outputFlag struct {
	Output string `short:"o" placeholder:"FORM" enum:"table,json,yaml" default:"table" help:"Form of the result: table (text for people), json or yaml."`
}

func (o outputFlag) isTable() bool { return o.Output != outputJSON && o.Output != outputYAML }

// print prints the result v: table prints it as text.
func (o outputFlag) print(p *Process, v any, table func(w io.Writer)) error {
	if o.isTable() {
		var text bytes.Buffer
		table(&text)
		_, err := p.Out.Write(text.Bytes())
		return err
	}
	text, err := o.encode(v)
	if err == nil {
		_, err = p.Out.Write(text)
	}
	return err
}

// encode returns v as one line of JSON, or as YAML with the members of the JSON.
func (o outputFlag) encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil || o.Output != outputYAML {
		return b.Bytes(), err
	}
	return yaml.JSONToYAML(b.Bytes())
}

// printEntry prints one entry of a result that is too long to be kept: as a line of
// JSON, or as an entry of a YAML list.
func (o outputFlag) printEntry(w io.Writer, v any) error {
	entry := v
	if o.Output == outputYAML {
		entry = []any{v}
	}
	text, err := o.encode(entry)
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

// columns prints rows of cells that are separated by tabs, in columns.
func columns(w io.Writer, rows func(w io.Writer)) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	rows(t)
	_ = t.Flush() // of a buffer
}

type versionCmd struct{ outputFlag }

// Run implements the command.
func (v versionCmd) Run(p *Process) error {
	return v.print(p, p.build(), func(w io.Writer) { fmt.Fprintln(w, p.build()) })
}
