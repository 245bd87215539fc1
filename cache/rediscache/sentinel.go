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
)

const (
	sentinelEvery = time.Second            // ± 25 %: how often the master's address is asked for
	sentinelSlow  = 100 * time.Millisecond // then the other Sentinels are asked as well
)

// sentinels finds the master that Sentinels name, for every new connection,
// and ends the connections to one that is no longer it.
//
// It does not use go-redis's failover client (v9.23.0), for two reasons. That
// client indexes the answer of a Sentinel in a goroutine of its own without
// looking at its length, so a Sentinel that answers an empty array ends the
// process (TestRedisGarbage); the reply is well-formed, so the guard on the
// connection lets it pass. And it follows a failover only when a Sentinel
// publishes it: connections to a former master that is still alive stay in use
// when that message is lost (TestRedisSentinelsNameAnother).
type sentinels struct {
	name   string
	asked  []*redis.SentinelClient
	dial   dialFunc
	chosen atomic.Int32 // the one that answered last: two that disagree must not take turns
	asking authz.Background
	mu     sync.Mutex
	conns  map[masterConn]string // address each one leads to
}

type masterConn interface {
	net.Conn
	gone() bool
}

func newSentinels(o *redis.UniversalOptions, login credentialsFunc) *sentinels {
	s := &sentinels{name: o.MasterName, dial: o.Dialer, conns: map[masterConn]string{}}
	for _, addr := range o.Addrs {
		s.asked = append(s.asked, redis.NewSentinelClient(&redis.Options{
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

// client returns a client of whichever server is the master.
func (s *sentinels) client(o *redis.UniversalOptions) *redis.Client {
	simple := o.Simple()
	simple.Network, simple.Addr, simple.Dialer = "tcp", s.name, s.connect
	return redis.NewClient(simple)
}

func (s *sentinels) connect(ctx context.Context, network, _ string) (net.Conn, error) {
	addr, err := s.master(ctx)
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

// master returns the master's address: from the Sentinel that answered last,
// or, if that fails or takes long, from the first one that answers.
func (s *sentinels) master(ctx context.Context) (string, error) {
	type answer struct {
		from int
		addr string
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(s.asked))
	ask := func(i int) {
		if !s.asking.Start(func() {
			addr, err := s.ask(ctx, i)
			answers <- answer{i, addr, err}
		}) {
			answers <- answer{err: redis.ErrClosed}
		}
	}
	first := int(s.chosen.Load())
	ask(first)
	open, others := 1, len(s.asked)-1
	askOthers := func() {
		for i := range s.asked {
			if others > 0 && i != first {
				ask(i)
			}
		}
		open, others = open+others, 0
	}
	slow := time.NewTimer(sentinelSlow)
	defer slow.Stop()
	var errs []error
	for open > 0 {
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no Sentinel has answered: %w", errors.Join(append(errs, ctx.Err())...))
		case <-slow.C:
			askOthers()
		case a := <-answers:
			if a.err == nil {
				s.chosen.Store(int32(a.from))
				return a.addr, nil
			}
			errs = append(errs, a.err)
			open--
			askOthers()
		}
	}
	return "", fmt.Errorf("no Sentinel names the master: %w", errors.Join(errs...))
}

func (s *sentinels) ask(ctx context.Context, i int) (addr string, err error) {
	defer recovered(&err)
	parts, err := s.asked[i].GetMasterAddrByName(ctx, s.name).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", fmt.Errorf("sentinel knows no master %q", s.name)
	case err != nil:
		return "", fmt.Errorf("sentinel: %w", err)
	case len(parts) != 2 || parts[0] == "":
		return "", errors.New("sentinel's answer is not an address")
	}
	if _, err := strconv.ParseUint(parts[1], 10, 16); err != nil {
		return "", errors.New("sentinel's answer has no port")
	}
	return net.JoinHostPort(parts[0], parts[1]), nil
}

// follow ends the connections to a former master. Mostly the Sentinels do that
// themselves; not if it is cut off from them.
func (s *sentinels) follow(ctx context.Context) {
	for sleep(ctx, jitter(sentinelEvery)) {
		limited, cancel := context.WithTimeout(ctx, sentinelEvery)
		addr, err := s.master(limited)
		cancel()
		if err == nil {
			s.leave(addr)
		}
	}
}

// leave ends every connection that does not lead to addr.
func (s *sentinels) leave(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn, to := range s.conns {
		if to != addr && !conn.gone() {
			_ = conn.Close()
		}
		if conn.gone() {
			delete(s.conns, conn)
		}
	}
}

func (s *sentinels) close() error {
	var errs []error
	for _, c := range s.asked {
		errs = append(errs, c.Close())
	}
	s.asking.Close()
	return errors.Join(errs...)
}
