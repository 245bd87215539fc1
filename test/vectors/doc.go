// Package vectors runs test vectors against the verifier. They are text files
// with one stanza for each hostile or unusual token or key set.
//
// A stanza is a block of "directive: value" lines; parse and build define the
// directives. The clock stands at 2030-01-01T00:00:00Z (1893456000). Each run
// makes new keys; their names are es, es2, es384, es512, rs, ps, ed, any (RSA
// without alg), nokid, and foreign (in no key set).
package vectors
