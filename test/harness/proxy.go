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

// FaultProxy stands between the product and a server and spoils the connection.
// Faults act on connections that are open as well as on new ones, and add up;
// Heal ends them all.
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

// Latency delays answers by d.
func (p *FaultProxy) Latency(d time.Duration) {
	p.toxic("latency", "downstream", fmt.Sprintf(`{"latency": %d, "jitter": 0}`, d.Milliseconds()))
}

// BlackHole swallows everything in both directions; connections stay open.
func (p *FaultProxy) BlackHole() {
	p.toxic("timeout", "upstream", `{"timeout": 0}`)
	p.toxic("timeout", "downstream", `{"timeout": 0}`)
}

// BlackHoleAnswers lets requests through and swallows their answers.
func (p *FaultProxy) BlackHoleAnswers() { p.toxic("timeout", "downstream", `{"timeout": 0}`) }

// Reset answers whatever is sent with a TCP reset.
func (p *FaultProxy) Reset() { p.toxic("reset_peer", "upstream", `{"timeout": 0}`) }

// Cut closes a connection after it has carried n bytes of answers.
func (p *FaultProxy) Cut(n int) {
	p.toxic("limit_data", "downstream", fmt.Sprintf(`{"bytes": %d}`, n))
}

// Down ends all connections and refuses new ones.
func (p *FaultProxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.down {
		p.proxy.Stop()
		p.down = true
	}
}

// Drop ends all connections; new ones are served.
func (p *FaultProxy) Drop() { p.Down(); p.up() }

// Redirect ends all connections; new ones go to upstream.
func (p *FaultProxy) Redirect(upstream string) {
	p.Down()
	p.mu.Lock()
	p.proxy.Upstream = upstream
	p.mu.Unlock()
	p.up()
}

// Heal ends every fault. Connections that were spoilt may be closed by it.
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
