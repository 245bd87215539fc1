//go:build cgo && linux && harm

package main

import "jwtbouncer/authz"

// harm panics when a request asks for it. Only the library that the tests build with the tag harm
// has it.
func harm(req *authz.Request) {
	if v, _ := req.Header("x-harm"); v == "panic" {
		panic("on request")
	}
}
