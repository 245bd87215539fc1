// Package vectors holds test vectors as text files, one stanza for each hostile
// or odd token and key set, and runs them against the verifier.
//
// A stanza is a block of "directive: value" lines; see parse and build for the
// directives. Time stands still at 2030-01-01T00:00:00Z (1893456000), and keys
// are made anew for each run and go by the names es, es2, es384, es512, rs, ps,
// ed, any (RSA without alg), nokid and foreign (in no key set).
package vectors
