package harness

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// FaultProxy is a TCP proxy between the product and a server that injects
// faults. A fault affects open and new connections; faults accumulate until
// Heal removes all of them.
type FaultProxy struct {
	Addr string // host:port, stable while the proxy lives

	mu    sync.Mutex
	proxy *toxiproxy.Proxy
	down  bool
	n     int
}

// Proxy starts a proxy to upstream (host:port).
func Proxy(t testing.TB, upstream string) *FaultProxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	var err error
	for range 5 {
		var port int
		if port, err = freePort(); err != nil {
			break
		}
		p := &FaultProxy{Addr: "127.0.0.1:" + strconv.Itoa(port)}
		p.proxy = toxiproxy.NewProxy(server, "proxy", p.Addr, upstream)
		if err = p.proxy.Start(); err == nil {
			t.Cleanup(func() { p.Heal(); p.proxy.Stop() })
			return p
		}
	}
	t.Fatalf("proxy to %s: %v", upstream, err)
	return nil
}

// Latency delays responses by d.
func (p *FaultProxy) Latency(d time.Duration) {
	p.toxic("latency", "downstream", fmt.Sprintf(`{"latency": %d, "jitter": 0}`, d.Milliseconds()))
}

// BlackHole discards data in both directions. Connections stay open.
func (p *FaultProxy) BlackHole() {
	p.toxic("timeout", "upstream", `{"timeout": 0}`)
	p.toxic("timeout", "downstream", `{"timeout": 0}`)
}

// BlackHoleAnswers forwards requests and discards the responses.
func (p *FaultProxy) BlackHoleAnswers() { p.toxic("timeout", "downstream", `{"timeout": 0}`) }

// Reset replies to any data with a TCP reset.
func (p *FaultProxy) Reset() { p.toxic("reset_peer", "upstream", `{"timeout": 0}`) }

// Cut closes each connection after n bytes of responses.
func (p *FaultProxy) Cut(n int) {
	p.toxic("limit_data", "downstream", fmt.Sprintf(`{"bytes": %d}`, n))
}

// Down closes all connections and refuses new ones.
func (p *FaultProxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.down {
		p.proxy.Stop()
		p.down = true
	}
}

// Drop closes all connections and accepts new ones.
func (p *FaultProxy) Drop() { p.Down(); p.up() }

// Redirect closes all connections and forwards new ones to upstream.
func (p *FaultProxy) Redirect(upstream string) {
	p.Down()
	p.mu.Lock()
	p.proxy.Upstream = upstream
	p.mu.Unlock()
	p.up()
}

// Heal removes all faults. It may close connections that were affected.
func (p *FaultProxy) Heal() {
	p.proxy.Toxics.ResetToxics(context.Background())
	p.up()
}

func (p *FaultProxy) up() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.down {
		return
	}
	// The port is reserved for this process and below the range of outgoing
	// connections, but its last connections may still be closing.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := Poll(ctx, 20*time.Millisecond, func(context.Context) error { return p.proxy.Start() }); err != nil {
		panic(fmt.Sprintf("harness: proxy does not come back on %s: %v", p.Addr, err))
	}
	p.down = false
}

func (p *FaultProxy) toxic(kind, stream, attributes string) {
	p.mu.Lock()
	p.n++
	name := kind + strconv.Itoa(p.n)
	p.mu.Unlock()
	_, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name": %q, "type": %q, "stream": %q, "toxicity": 1, "attributes": %s}`, name, kind, stream, attributes)))
	if err != nil {
		panic("harness: toxic " + kind + ": " + err.Error())
	}
}
