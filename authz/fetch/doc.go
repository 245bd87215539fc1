// Package fetch makes HTTP requests whose every stage is bounded: time, size,
// redirects. It never uses a proxy from the environment.
package fetch
