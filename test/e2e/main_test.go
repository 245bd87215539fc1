package e2e

import (
	"flag"
	"testing"

	"jwtbouncer/test/harness"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests mostly wait for servers, so more of them can run than there are
	// CPUs.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	if harness.ThroughModule() {
		if err := skipOnlyExtAuthz(); err != nil {
			panic(err)
		}
	}
	harness.Main(m)
}
