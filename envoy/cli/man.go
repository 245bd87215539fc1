package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type manCmd struct{}

// Run implements the command. It prints the manual page in man(7)'s language, made
// from the grammar, for packages and archives.
func (manCmd) Run(k *kong.Context, p *Process) error {
	var m manual
	app := k.Model
	m.line(".TH JWT-BOUNCER 1 \"\" \"jwt-bouncer %s\"", roff(p.Version))
	m.section("NAME", "jwt-bouncer - Envoy external authorization that makes revoked JWTs stop working")
	m.line(".SH SYNOPSIS\n.B jwt\\-bouncer\n.RI [ options ]\n.I command")
	description, codes, _ := strings.Cut(app.Help, "Exit codes: ")
	m.section("DESCRIPTION", strings.TrimSpace(description))
	m.line(".SH OPTIONS")
	m.flags(app.Flags)
	m.line(".SH COMMANDS")
	m.commands(app.Node)
	m.line(".SH EXIT STATUS")
	for code := range strings.SplitSeq(strings.TrimSuffix(codes, "."), ". ") {
		number, meaning, _ := strings.Cut(code, ": ")
		m.line(".TP\n.B %s\n%s", roff(number), roff(meaning))
	}
	m.line(".SH ENVIRONMENT\n.TP\n.B JWT_BOUNCER_CONFIG\nThe configuration file if \\-\\-config names none.")
	m.line(".TP\n.B JWT_BOUNCER_...\nEvery key of the configuration has a variable; config reference lists them. A flag overrides the variable, which overrides the file.")
	_, err := io.WriteString(p.Out, m.String())
	return err
}

// manual is a manual page in man(7)'s language.
type manual struct{ strings.Builder }

func (m *manual) line(format string, args ...any) { fmt.Fprintf(m, format+"\n", args...) }

func (m *manual) section(title, text string) { m.line(".SH %s\n%s", title, roff(text)) }

// commands describes the visible commands below n that can be run.
func (m *manual) commands(n *kong.Node) {
	for _, c := range n.Children {
		if c.Hidden {
			continue
		}
		if !c.Leaf() {
			m.commands(c)
			continue
		}
		m.line(".SS %s\n%s", roff(c.Path()), roff(c.Help))
		if c.Detail != "" {
			m.line(".PP\n%s", roff(c.Detail))
		}
		for _, a := range c.Positional {
			m.line(".TP\n.I %s\n%s", roff(a.Summary()), roff(a.Help))
		}
		m.flags(c.Flags)
	}
}

func (m *manual) flags(flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		name := "--" + f.Name
		if f.Short != 0 {
			name = "-" + string(f.Short) + ", " + name
		}
		if !f.IsBool() {
			name += " " + f.FormatPlaceHolder()
		}
		m.line(".TP\n.B %s\n%s", roff(name), roff(f.Help))
	}
}

// roff escapes text: a backslash, a hyphen, and a control line's first character.
func roff(text string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
