package kubernetes

import (
	"testing"

	"jwtbouncer/test/live"
)

func TestMain(m *testing.M) { live.Main(m) }
