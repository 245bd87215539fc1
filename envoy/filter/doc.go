// Package filter is the part of the dynamic module for Envoy that needs no C: it reads
// the request that the shim has gathered, holds the pending decision of a stream, and
// knows the versions of Envoy's ABI. The package module calls it.
package filter
