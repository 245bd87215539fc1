// Package fetch makes HTTP requests with a bounded time, size and number of
// redirects. It says what came instead of what
// was expected, and never uses a proxy from the environment.
package fetch
