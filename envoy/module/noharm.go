//go:build cgo && linux && !harm

package main

import "jwtbouncer/authz"

// harm does nothing in the product; see harm.go.
func harm(*authz.Request) {}
