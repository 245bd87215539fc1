package cli

import (
	"fmt"
	"os"
)

type completionCmd struct {
	Shell   string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
	Program string `placeholder:"PATH" help:"Program that the shell asks for completions; default: this one, by its full path."`
}

// Run implements the command.
func (k *completionCmd) Run(p *Process) error {
	program := k.Program
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return err
		}
	}
	line := "complete -C %q jwt-bouncer\n"
	switch k.Shell {
	case "zsh":
		line = "autoload -U +X bashcompinit && bashcompinit\n" + line
	case "fish":
		line = "complete -c jwt-bouncer -f -a '(COMP_LINE=(commandline -cp) %s)'\n"
	}
	_, err := fmt.Fprintf(p.Out, line, program)
	return err
}
