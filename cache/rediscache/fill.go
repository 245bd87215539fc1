package rediscache

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
)

const (
	fillWorkers = 2
	fillQueue   = 1024 // verdicts; more than that and Redis is not keeping up, so they are dropped
	// backgroundTimeout bounds one command that no request waits for.
	backgroundTimeout = 500 * time.Millisecond
)

type fillJob struct {
	query   authz.Query
	verdict authz.Verdict
	call    string // roll call to write into a valid entry
}

// Begin implements authz.Filler. The mark names, without a round trip, the roll
// call known before the authority is asked.
func (r *Client) Begin(context.Context, *authz.Query) (mark time.Duration, ok bool) {
	if !r.breaker.Ready() {
		return 0, false
	}
	return r.clock.Boot(), true
}

// Fill implements authz.Filler. It never blocks: when the queue is full the
// verdict is dropped and counted.
func (r *Client) Fill(q authz.Query, verdict authz.Verdict, mark time.Duration) {
	job := fillJob{query: q, verdict: verdict}
	switch {
	case verdict == authz.Revoked:
	case verdict == authz.NotRevoked && r.roll != nil && r.limit.Load() > 0: // else it is not known yet whose verdict it is
		var ok bool
		if job.call, ok = r.roll.before(mark); !ok {
			return
		}
	default:
		return
	}
	job.query.Keys = slices.Clone(q.Keys)
	select {
	case r.fills <- job:
	default:
		r.metrics.fills.WithLabelValues("dropped").Inc()
	}
}

func (r *Client) fillLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-r.fills:
			result := "dropped"
			if r.breaker.Ready() {
				result = "written"
				if err := r.fill(ctx, job); err != nil {
					result = "failed"
					r.log.Debug("fill failed", "error", err)
				}
			}
			r.metrics.fills.WithLabelValues(result).Inc()
		}
	}
}

// fillScript writes token:valid (KEYS[1]) unless one of the revoked keys
// behind it revokes a token with the iat in ARGV[3]. Readers look at those
// keys themselves and revoked wins; the script only keeps an entry from
// appearing behind a revocation that a full server may evict sooner. A key
// that is no string holds none.
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

func (r *Client) fill(ctx context.Context, job fillJob) (err error) {
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	q := &job.query
	left := time.Unix(q.Expires, 0).Sub(r.clock.Now())
	if job.verdict == authz.Revoked {
		// Which of the keys it was is not known, but this token is revoked for good.
		item := newsItem{entry: authz.Entry{Key: q.TokenKey, NotBefore: authz.Always, Expires: q.Expires}, dropValid: true}
		if left <= 0 {
			return nil
		}
		return r.write(ctx, []newsItem{item})
	}
	ttl := min(r.bound, left)
	if r.cfg.MaxTTL > 0 {
		ttl = min(ttl, r.cfg.MaxTTL)
	}
	if ttl < time.Millisecond {
		return nil
	}
	if r.cfg.Cluster { // the keys are on several nodes: no script can see them all
		return r.client.Set(ctx, validKey(q.TokenKey), job.call, ttl).Err()
	}
	keys := append([]string{validKey(q.TokenKey)}, r.revokedKeys(q)...)
	return runScript(ctx, r.client, fillScript, keys, job.call, ttl.Milliseconds(), q.IssuedAt, len(q.Keys))
}

func runScript(ctx context.Context, c redis.Scripter, s *redis.Script, keys []string, args ...any) error {
	return s.Run(ctx, c, keys, args...).Err()
}
