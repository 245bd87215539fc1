package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// NewHTTPDriver returns a client that sends HTTP/1.1 requests to addr (host:port). Each of
// the connections has one request under way, so a load should have as many in flight.
//
// It is not a net/http.Client, which would use more of the shared processors than the
// server that it measures.
func NewHTTPDriver(addr string, connections int) (*Driver, error) {
	d := &Driver{}
	for range max(connections, 1) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("driver: %w", err), d.Close())
		}
		d.conns = append(d.conns, &httpConnection{Conn: c, answers: bufio.NewReader(c)})
	}
	return d, nil
}

type httpConnection struct {
	net.Conn
	mu      sync.Mutex
	answers *bufio.Reader
}

// ask allows if the status is 200. Any other status than 401 and 403 is an error.
func (c *httpConnection) ask(ctx context.Context, wire []byte) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if end, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(end); err != nil {
			return false, err
		}
	}
	if _, err := c.Write(wire); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return false, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return false, nil
	}
	return false, fmt.Errorf("status %s", resp.Status)
}

// HTTPWire returns a browser's HTTP/1.1 request with this bearer token.
func HTTPWire(token string) []byte {
	return []byte(strings.Join([]string{
		"GET /api/v1/orders/48213?expand=items,customer&page=2 HTTP/1.1",
		"Host: shop.example.com",
		"Accept: application/json, text/plain, */*",
		"Accept-Encoding: gzip, deflate, br, zstd",
		"Accept-Language: en-GB,en;q=0.9,de;q=0.8",
		"Authorization: Bearer " + token,
		"Cookie: theme=dark; consent=1; _sid=3f2a9c1e7b4d4f6e8a1b",
		"Referer: https://shop.example.com/orders",
		"Sec-Fetch-Mode: cors",
		"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
		"\r\n",
	}, "\r\n"))
}
