package e2e

import (
	"syscall"
	"testing"

	"jwtbouncer/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const syscallTERM = syscall.SIGTERM
