package harness

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// shared holds the functions that end what the tests of a process share.
var shared struct {
	sync.Mutex
	stops []func()
}

// atEnd registers a function that Main calls last. In a package without Main,
// the kernel ends the children and the next run removes the directories.
func atEnd(stop func()) {
	shared.Lock()
	defer shared.Unlock()
	shared.stops = append(shared.stops, stop)
}

// NeedsProcess skips the test under -short. Everything in this package that
// starts a process or builds the product calls it, so that `go test -short ./...`
// runs exactly the tests that need neither.
func NeedsProcess(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a process: run without -short")
	}
}

// Main runs the tests of a package, stops their shared servers, fails if a
// goroutine has leaked, and exits. Call it from TestMain.
func Main(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	shared.Lock()
	stops := shared.stops
	shared.stops = nil
	shared.Unlock()
	for i := len(stops) - 1; i >= 0; i-- {
		stops[i]()
	}
	copies.Lock()
	if copies.dir != "" {
		_ = os.RemoveAll(copies.dir)
	}
	copies.Unlock()
	if code == 0 {
		// toxiproxy can leak a goroutine when a toxic is added at the moment the
		// connection ends. The product does not contain toxiproxy.
		options = append(options, goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"))
		if err := goleak.Find(options...); err != nil {
			fmt.Fprintln(os.Stderr, "the tests leak goroutines:", err)
			code = 1
		}
	}
	os.Exit(code)
}
