package rediscache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

const (
	sentinelEvery = time.Second            // ± 25 %, between two questions for the master's address
	sentinelSlow  = 100 * time.Millisecond // after this time the other Sentinels are asked as well
)

// sentinels asks the Sentinels for the master's address before every new
// connection, and closes the connections to a former master.
//
// It does not use go-redis's failover client (v9.23.0), for two reasons. That
// client indexes a Sentinel's answer in a goroutine of its own without a look at
// its length, so an empty array, which the guard lets pass, ends the process
// (TestGarbage). And it follows a failover only when a Sentinel publishes it: when
// that message is lost, connections to a former master that is still alive stay in
// use (TestSentinelsNameAnother).
type sentinels struct {
	master  string // name
	clients []*redis.SentinelClient
	dial    dialFunc
	chosen  atomic.Int32 // the Sentinel that answered last, so that two that disagree do not alternate
	asking  authz.Background
	mu      sync.Mutex
	conns   map[masterConn]string // connection → its address
}

type masterConn interface {
	net.Conn
	isClosed() bool
}

func newSentinels(o *redis.UniversalOptions, login credentialsFunc) *sentinels {
	s := &sentinels{master: o.MasterName, dial: o.Dialer, conns: map[masterConn]string{}}
	for _, addr := range o.Addrs {
		s.clients = append(s.clients, redis.NewSentinelClient(&redis.Options{
			Addr: addr, Username: o.SentinelUsername, CredentialsProviderContext: login, ClientName: o.ClientName,
			Dialer: o.Dialer, DialTimeout: o.DialTimeout, DialerRetries: o.DialerRetries,
			Protocol: o.Protocol, ContextTimeoutEnabled: o.ContextTimeoutEnabled, MaxRetries: o.MaxRetries,
			ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, ConnMaxIdleTime: o.ConnMaxIdleTime,
			PoolSize: 2, PipelinePoolSize: -1, DisableIdentity: o.DisableIdentity,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}))
	}
	return s
}

// client returns a client of the server that is the master.
func (s *sentinels) client(o *redis.UniversalOptions) *redis.Client {
	simple := o.Simple()
	simple.Network, simple.Addr, simple.Dialer = "tcp", s.master, s.connect
	return redis.NewClient(simple)
}

func (s *sentinels) connect(ctx context.Context, network, _ string) (net.Conn, error) {
	addr, err := s.masterAddr(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := s.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if known, ok := conn.(masterConn); ok {
		s.mu.Lock()
		s.conns[known] = addr
		s.mu.Unlock()
	}
	return conn, nil
}

// masterAddr returns the master's address: from the Sentinel that answered last
// or, if that one fails or is slow, from the first one that answers.
func (s *sentinels) masterAddr(ctx context.Context) (string, error) {
	type answer struct {
		from int
		addr string
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alone, askOthers := context.WithTimeout(ctx, sentinelSlow)
	defer askOthers()
	answers := make(chan answer, len(s.clients))
	first := int(s.chosen.Load())
	for i := range s.clients {
		if !s.asking.Start(func() {
			if i != first {
				<-alone.Done()
			}
			addr, err := s.ask(ctx, i)
			answers <- answer{i, addr, err}
		}) {
			return "", fmt.Errorf("no Sentinel answered: %w", redis.ErrClosed)
		}
	}
	var errs []error
	for range s.clients {
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no Sentinel answered: %w", errors.Join(append(errs, ctx.Err())...))
		case a := <-answers:
			if a.err == nil {
				s.chosen.Store(int32(a.from))
				return a.addr, nil
			}
			errs = append(errs, a.err)
			askOthers()
		}
	}
	return "", fmt.Errorf("no Sentinel knows the master: %w", errors.Join(errs...))
}

func (s *sentinels) ask(ctx context.Context, i int) (addr string, err error) {
	defer breaker.Recover("redis", &err)
	if ctx.Err() != nil { // another Sentinel has answered
		return "", ctx.Err()
	}
	parts, err := s.clients[i].GetMasterAddrByName(ctx, s.master).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", fmt.Errorf("sentinel does not know the master %q", s.master)
	case err != nil:
		return "", fmt.Errorf("sentinel: %w", err)
	case len(parts) != 2 || parts[0] == "":
		return "", errors.New("the Sentinel's answer is not an address")
	}
	if _, err := strconv.ParseUint(parts[1], 10, 16); err != nil {
		return "", errors.New("the Sentinel's answer has no valid port")
	}
	return net.JoinHostPort(parts[0], parts[1]), nil
}

// follow closes the connections to a former master. Usually the Sentinels close
// them, but they cannot when that master is cut off from them.
func (s *sentinels) follow(ctx context.Context) {
	for sleep(ctx, breaker.Jitter(sentinelEvery, 0.25)) {
		limited, cancel := context.WithTimeout(ctx, sentinelEvery)
		addr, err := s.masterAddr(limited)
		cancel()
		if err == nil {
			s.closeOthers(addr)
		}
	}
}

// closeOthers closes every connection to another address than addr.
func (s *sentinels) closeOthers(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn, to := range s.conns {
		if to != addr && !conn.isClosed() {
			_ = conn.Close()
		}
		if conn.isClosed() {
			delete(s.conns, conn)
		}
	}
}

func (s *sentinels) close() (err error) {
	for _, c := range s.clients {
		err = errors.Join(err, c.Close())
	}
	s.asking.Close()
	return err
}
