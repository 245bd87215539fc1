package authz_test

import (
	"testing"

	"jwtbouncer/authz"
)

func BenchmarkSystemClock(b *testing.B) {
	c := authz.SystemClock{}
	b.Run("boot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Boot()
		}
	})
	b.Run("now", func(b *testing.B) {
		for b.Loop() {
			c.Now()
		}
	})
}
