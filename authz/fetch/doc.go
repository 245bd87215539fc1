// Package fetch makes HTTP requests with a bounded time, size and number of
// redirects. It never uses a proxy from the environment.
package fetch
