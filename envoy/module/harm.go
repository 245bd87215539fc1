//go:build cgo && linux && harm

package main

/*
#include <stdlib.h>

// Only a sanitizer notices this.
static void use_after_free(void) {
  volatile char *p = malloc(16);
  free((void *)p);
  p[0] = 1;
}
*/
import "C"

import "jwtbouncer/authz"

// harm panics or misuses memory when a request asks for it. Only the library that the
// tests build with the tag harm has it.
func harm(req *authz.Request) {
	switch v, _ := req.Header("x-harm"); v {
	case "panic":
		panic("on request")
	case "use-after-free":
		C.use_after_free()
	}
}
