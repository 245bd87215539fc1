package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/secretfile"
	"jwtbouncer/cache/rediscache"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/store"
)

const (
	minPostgres   = 140000
	jitAboveCost  = 100000 // PostgreSQL's default, far above the cost of a sidecar's statements
	clockSkew     = 2 * time.Second
	minPgBouncer  = 1.20
	minRedisMajor = 6
	minRedisMinor = 2
)

// Store examines the store that the settings name.
func (r *Report) Store(ctx context.Context, s sidecar.Settings) {
	o := store.Options{Clock: authz.SystemClock{}}
	if s.StorePasswordFile != "" {
		o.Password = func() (string, error) { return secretfile.Read(s.StorePasswordFile) }
	}
	in, err := store.Inspect(ctx, s.Store, o)
	where := in.Engine + " " + in.Where
	if err != nil {
		r.find(Failure, "store.reachable", where, "%v", err)
		return
	}
	r.pass("store.reachable", where)
	switch {
	case in.File.Missing:
	case in.SchemaErr != nil:
		r.unknown("store.schema", where, "%v", in.SchemaErr)
	case in.Schema == 0:
		r.find(Failure, "store.schema", where, "there is no schema")
	default:
		r.expect(in.Schema == in.NeedSchema, "store.schema", where, "the schema has version %d, and this program needs version %d", in.Schema, in.NeedSchema)
	}
	if in.Engine == "sqlite" {
		r.file(where, in.File)
		return
	}
	r.expect(!in.Follows, "store.primary", where, "it is a hot standby, or a subscription brings its revocations")
	r.clock("clocks.store", where, in.Skew, in.SkewError, clockSkew)
	r.postgres(where, in.Postgres, len(s.API.Clients) > 0 || s.API.TokenFile != "")
}

func (r *Report) file(where string, f store.FileInspection) {
	const id = "store.file"
	switch {
	case f.Missing:
		r.find(Warning, "store.schema", where, "the file does not exist; the first command creates it")
	case f.Mode.Perm()&0o022 != 0:
		r.find(Failure, id, where, "others may write to it (%s)", f.Mode.Perm())
	case f.DirMode.Perm()&0o002 != 0:
		r.find(Failure, id, where, "every user may write to its directory (%s)", f.DirMode.Perm())
	case f.Mode.Perm()&0o004 != 0:
		r.find(Warning, id, where, "every user may read it (%s)", f.Mode.Perm())
	default:
		r.pass(id, where)
	}
}

func (r *Report) postgres(where string, p store.PostgresInspection, serves bool) {
	r.expect(p.Version >= minPostgres, "store.version", where, "the server has version %d", p.Version/10000)
	r.expect(p.Encoding == "UTF8", "store.encoding", where, "the database is encoded in %s", p.Encoding)
	r.expect(!p.Superuser, "store.superuser", where, "the login %s is a superuser", p.Login)
	if !p.Superuser { // who may do everything anyway
		r.expect(len(p.Attributes) == 0, "store.attributes", where, "the login %s has %s", p.Login, strings.Join(p.Attributes, ", "))
		r.expect(len(p.Excess) == 0, "store.excess", where, "the login %s may do more than a sidecar needs: %s", p.Login, strings.Join(p.Excess, "; "))
	}
	missing := p.Missing
	if serves {
		missing = append(missing, p.MissingRevoker...)
	}
	r.expect(len(missing) == 0, "store.rights", where, "the login %s may not execute authz.%s", p.Login, strings.Join(missing, ", authz."))
	r.expect(p.SuperuserOwner == "", "store.owner", where, "the superuser %s owns the schema authz", p.SuperuserOwner)
	r.expect(len(p.Durability) == 0, "store.durability", where, "%s", strings.Join(p.Durability, "; "))
	durable := p.SynchronousCommit != "off" && p.SynchronousCommit != "local" && p.SynchronousCommit != "remote_write"
	r.expect(durable, "store.synchronous_commit", where, "synchronous_commit is %s", p.SynchronousCommit)
	r.expect(!p.JIT || p.JITAboveCost < 0 || p.JITAboveCost >= jitAboveCost, "store.jit", where, "jit is on and jit_above_cost is %g", p.JITAboveCost)
	r.expect(p.StatementTimeout > 0, "store.statement_timeout", where, "statement_timeout is 0, which means none")
	r.expect(p.Local || p.TLS && p.Verified, "store.tls", where, "the connection is %s", map[bool]string{false: "not encrypted", true: "encrypted, but the server's certificate is not verified"}[p.TLS])
	r.pooler(where, p)
}

func (r *Report) pooler(where string, p store.PostgresInspection) {
	const id = "store.pooler"
	version, err := strconv.ParseFloat(majorMinor(p.PoolerVersion), 64)
	switch {
	case p.Pooler == "":
		r.pass(id, where+" is connected to directly")
	case err != nil:
		r.unknown(id, where, "it is behind a pooler, by %s, which does not tell its version", p.Pooler)
	case version < minPgBouncer:
		r.find(Failure, id, where, "it is behind pgbouncer %s, by %s", p.PoolerVersion, p.Pooler)
	default:
		r.pass(id, fmt.Sprintf("%s is behind pgbouncer %s, by %s", where, p.PoolerVersion, p.Pooler))
	}
}

// majorMinor returns "1.20" of "1.20.1".
func majorMinor(v string) string {
	parts := strings.SplitN(v, ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".")
}

// Redis examines the Redis that the settings name, if any.
func (r *Report) Redis(ctx context.Context, s sidecar.Settings) {
	if !s.Redis.Enabled() {
		return
	}
	where := "redis " + s.Redis.String()
	c, err := sidecar.OpenRedis(s, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		r.find(Failure, "redis.reachable", where, "%v", err)
		return
	}
	defer c.Close()
	in, err := c.Inspect(ctx)
	if err != nil {
		r.find(Failure, "redis.reachable", where, "%v", err)
		return
	}
	r.pass("redis.reachable", where)
	r.clock("clocks.redis", where, in.Skew, in.SkewError, clockSkew)
	r.redisVersion(where, in.Version)
	if in.Role == "" {
		r.unknown("redis.role", where, "HELLO is not answered")
	} else {
		r.expect(in.Role == "master", "redis.role", where, "it is a %s", in.Role)
	}
	switch in.Policy {
	case "":
		r.unknown("redis.maxmemory_policy", where, "the user may execute neither CONFIG GET nor INFO")
	case "noeviction":
		r.pass("redis.maxmemory_policy", where)
	default:
		r.find(Warning, "redis.maxmemory_policy", where, "maxmemory-policy is %s", in.Policy)
	}
	switch {
	case in.Subscribed != nil:
		r.find(Failure, "redis.subscription", where, "the channel %s cannot be subscribed to: %v", rediscache.Channel, in.Subscribed)
	case errors.Is(in.Delivered, rediscache.ErrNotPermitted):
		r.pass("redis.subscription", where) // the ACL of docs/redis.md has no channel to try it on
	default:
		r.expect(in.Delivered == nil, "redis.subscription", where, "%v", in.Delivered)
	}
	r.expect(in.Encrypted || in.Local, "redis.tls", where, "the connection is not encrypted")
	r.expect(in.Password || in.Local, "redis.auth", where, "neither a password nor a client certificate is configured")
}

func (r *Report) redisVersion(where, version string) {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		r.unknown("redis.version", where, "HELLO tells no version")
		return
	}
	r.expect(major > minRedisMajor || major == minRedisMajor && minor >= minRedisMinor, "redis.version", where, "it has version %s", version)
}
