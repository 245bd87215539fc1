package cli

import (
	"fmt"
	"os"
)

type versionCmd struct{}

// Run implements the command.
func (versionCmd) Run(p *Process) error {
	_, err := fmt.Fprintln(p.Out, p.version())
	return err
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run implements the command.
func (k *completionCmd) Run(p *Process) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	line := "complete -C %q jwt-bouncer\n"
	switch k.Shell {
	case "zsh":
		line = "autoload -U +X bashcompinit && bashcompinit\n" + line
	case "fish":
		line = "complete -c jwt-bouncer -f -a '(COMP_LINE=(commandline -cp) %s)'\n"
	}
	_, err = fmt.Fprintf(p.Out, line, self)
	return err
}
