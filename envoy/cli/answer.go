package cli

import "fmt"

// Answer is the error of a command that has done its work and printed its result,
// which is not a plain yes. Its value is the exit code.
type Answer int

// The answers, with their exit codes.
const (
	ErrNo           Answer = 3 // check, health, config test, streams status, streams verify: no
	ErrRolesMissing Answer = 4 // migrate: the schema is there, but roles are missing that its login may not create
	ErrIncomplete   Answer = 5 // check: allowed, but for the steps that were skipped
	ErrDegraded     Answer = 6 // health --strict: ready, but a part does not work; doctor --strict: warnings, and no failures
)

func (a Answer) Error() string { return fmt.Sprintf("the answer is not yes (exit code %d)", int(a)) }
