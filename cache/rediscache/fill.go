package rediscache

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

const (
	fillWorkers = 2
	fillQueue   = 1024 // verdicts; with more waiting, Redis is not keeping up and further ones are dropped
	// backgroundTimeout bounds one command that no request waits for.
	backgroundTimeout = 500 * time.Millisecond
)

type fillJob struct {
	query   authz.Query
	verdict authz.Verdict
	epoch   string // ID of the freshness epoch to write into a valid entry
}

// Begin implements authz.Filler. The mark names, without a round trip, the
// freshness epoch known before the store is asked.
func (c *Client) Begin(context.Context, *authz.Query) (mark time.Duration, ok bool) {
	if !c.breaker.Ready() {
		return 0, false
	}
	return c.clock.Boot(), true
}

// Fill implements authz.Filler. When the queue is full, the verdict is dropped
// and counted.
func (c *Client) Fill(q authz.Query, verdict authz.Verdict, mark time.Duration) {
	job := fillJob{query: q, verdict: verdict}
	switch {
	case verdict == authz.Revoked:
	case verdict == authz.NotRevoked && c.epochs != nil && c.limit.Load() > 0: // at 0 the store that answered is not known yet
		var ok bool
		if job.epoch, ok = c.epochs.newestBefore(mark); !ok {
			return
		}
	default:
		return
	}
	job.query.Keys = slices.Clone(q.Keys)
	select {
	case c.fills <- job:
	default:
		c.metrics.fills.WithLabelValues("dropped").Inc()
	}
}

func (c *Client) runFills(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-c.fills:
			result := "dropped"
			if c.breaker.Ready() {
				result = "written"
				if err := c.fill(ctx, job); err != nil {
					result = "failed"
					c.log.Debug("fill failed", "error", err)
				}
			}
			c.metrics.fills.WithLabelValues(result).Inc()
		}
	}
}

// fillScript writes token:valid (KEYS[1]) unless one of the revoked keys after it
// revokes a token with the iat in ARGV[3]. Readers look at those keys themselves;
// the script keeps a valid entry from outliving a revocation that a full server
// evicts first. A key of another type than string holds no revocation.
var fillScript = redis.NewScript(`
for i = 2, #KEYS do
  local v = redis.pcall('GET', KEYS[i])
  if type(v) == 'table' then
    if not string.find(v.err, 'WRONGTYPE', 1, true) then return v end
    v = false
  end
  if v then
    local nb = tonumber(v)
    if i - 1 > tonumber(ARGV[4]) or not nb or tonumber(ARGV[3]) < nb then return 0 end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`)

func (c *Client) fill(ctx context.Context, job fillJob) (err error) {
	defer breaker.Recover("redis", &err)
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	q := &job.query
	left := time.Unix(q.Expires, 0).Sub(c.clock.Now())
	// The verdict is kept under the hash of the question that was asked. It answers no
	// other question about the token.
	question := q.Hash()
	if job.verdict == authz.Revoked {
		if left <= 0 {
			return nil
		}
		// The verdict does not say which key is revoked, but the answer will stay the same.
		return c.write(ctx, []pendingEntry{{entry: authz.Entry{Key: question, NotBefore: authz.Always, Expires: q.Expires}}}, "")
	}
	ttl := min(c.maxStaleness, left, cmp.Or(c.cfg.MaxTTL, left))
	if ttl < time.Millisecond {
		return nil
	}
	if c.cfg.Cluster { // the keys are on several nodes: no script can see them all
		return c.client.Set(ctx, validKey(question), job.epoch, ttl).Err()
	}
	keys := append([]string{validKey(question)}, c.revokedKeys(q, question)...)
	return fillScript.Run(ctx, c.client, keys, job.epoch, ttl.Milliseconds(), q.IssuedAt, len(q.Keys)).Err()
}
