package idp

import (
	"testing"

	"jwtbouncer/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
