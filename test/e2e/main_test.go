package e2e

import (
	"flag"
	"testing"

	"jwtbouncer/test/harness"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait for servers far more than they compute.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	harness.Main(m)
}
