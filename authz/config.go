package authz

// Fault is how a configuration stanza reports what is wrong with it. path is
// relative to the stanza in YAML terms ("jwks", "routes[2].match.path"); the
// message says what was found, what is allowed and, where it helps, what to do.
// The loader adds file and line and reports all faults at once.
type Fault func(path, format string, args ...any)
