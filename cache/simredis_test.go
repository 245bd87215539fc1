package cache

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
)

// simRedis is a Redis server. It runs the product's own scripts on its keys by its
// own clock, restarts empty, and fails over to a replica that lacks the last
// writes.
type simRedis struct {
	w           *simWorld
	keys        map[string]simValue
	skew        time.Duration
	down        time.Duration // no answers until then
	older       map[string]simValue
	subscribers []*simNode
	sent        []simMessage
	store       *simPostgres
	scripts     *simScripts
}

type simValue struct {
	text    string
	members map[string]float64 // of a sorted set
	until   int64              // server's clock in ms; 0: no expiry
}

func newSimRedis(w *simWorld, scripts *simScripts) *simRedis {
	s := &simRedis{w: w, keys: map[string]simValue{}, older: map[string]simValue{}, scripts: scripts}
	scripts.server = s
	return s
}

func (s *simRedis) ms() int64 { return simEpoch.UnixMilli() + (s.w.now + s.skew).Milliseconds() }

func (s *simRedis) get(key string) (simValue, bool) {
	v, ok := s.keys[key]
	if ok && v.until != 0 && v.until <= s.ms() {
		delete(s.keys, key)
		return simValue{}, false
	}
	return v, ok
}

// restart forgets everything; a failover goes back to an older state.
func (s *simRedis) restart(failover bool) {
	s.keys = map[string]simValue{}
	if failover {
		s.keys = maps.Clone(s.older)
		s.skew += time.Duration(s.w.rng.Int64N(int64(4*simStaleness))) - 2*simStaleness
	}
	s.older = maps.Clone(s.keys)
	s.down = s.w.now + s.w.upTo(time.Second)
	s.w.logf("redis restarts, %d keys left", len(s.keys))
}

// client returns a client of the server that never dials.
func (s *simRedis) client(n *simNode) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
	c.AddHook(simLink{s, n})
	return c
}

// simLink is one sidecar's connection to the server.
type simLink struct {
	s    *simRedis
	node *simNode
}

func (l simLink) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l simLink) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error { return l.exchange([]redis.Cmder{cmd}) }
}

func (l simLink) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error { return l.exchange(cmds) }
}

func (l simLink) exchange(cmds []redis.Cmder) error {
	w := l.s.w
	defer func() {
		// The product would treat the panic as a failure of the server.
		if p := recover(); p != nil {
			w.violate("the simulated Redis cannot do this: %v", p)
			panic(p)
		}
	}()
	w.travel()
	lost := w.now < l.s.down || w.now < l.node.redisCut || w.chance(2)
	for _, cmd := range cmds {
		if !lost {
			l.s.execute(cmd)
		}
	}
	w.travel()
	if lost || w.chance(1) { // the commands ran, but the reply is lost
		for _, cmd := range cmds {
			cmd.SetErr(errSimAway)
		}
		return errSimAway
	}
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (s *simRedis) execute(cmd redis.Cmder) {
	args := make([]string, len(cmd.Args()))
	for i, a := range cmd.Args() {
		args[i] = fmt.Sprint(a)
	}
	switch c := cmd.(type) {
	case *redis.StringCmd: // GET
		if v, ok := s.get(args[1]); ok {
			c.SetVal(v.text)
		} else {
			c.SetErr(redis.Nil)
		}
	case *redis.StatusCmd: // SET key value [PX ms]
		v := simValue{text: args[2]}
		if len(args) == 5 {
			ms, err := strconv.ParseInt(args[4], 10, 64)
			if unit := strings.ToUpper(args[3]); err != nil || unit != "PX" && unit != "EX" {
				panic("sim: " + strings.Join(args, " "))
			} else if unit == "EX" {
				ms *= 1000
			}
			v.until = s.ms() + ms
		}
		s.keys[args[1]] = v
	case *redis.IntCmd:
		switch strings.ToUpper(args[0]) {
		case "DEL":
			for _, k := range args[1:] {
				delete(s.keys, k)
			}
		case "PUBLISH":
			s.publish(args[2])
		default:
			panic("sim: " + strings.Join(args, " "))
		}
	case *redis.Cmd: // EVAL, EVALSHA, MGET
		if args[0] == "mget" {
			values := make([]any, len(args)-1)
			for i, k := range args[1:] {
				if v, ok := s.get(k); ok && v.members == nil {
					values[i] = v.text
				}
			}
			c.SetVal(values)
			return
		}
		if strings.EqualFold(args[0], "evalsha") {
			c.SetErr(simNoScript{})
			return
		}
		n, err := strconv.Atoi(args[2])
		if err != nil {
			panic(err)
		}
		value, err := s.eval(args[1], args[3:3+n], args[3+n:])
		if err != nil {
			panic(err)
		}
		c.SetVal(value)
		if value == nil {
			c.SetErr(redis.Nil)
		}
	default:
		panic(fmt.Sprintf("sim: %T %v", cmd, args))
	}
}

type simNoScript struct{}

func (simNoScript) Error() string { return "NOSCRIPT No matching script." }
func (simNoScript) RedisError()   {}

// simScripts is a Lua interpreter with the commands that the product's scripts
// use. One interpreter serves many servers, one after the other.
type simScripts struct {
	state    *lua.LState
	server   *simRedis
	compiled map[string]*lua.FunctionProto
}

func newSimScripts() *simScripts {
	x := &simScripts{state: lua.NewState(), compiled: map[string]*lua.FunctionProto{}}
	table := x.state.NewTable()
	x.state.SetField(table, "call", x.state.NewFunction(func(l *lua.LState) int {
		if refusal := x.server.call(l); refusal != "" {
			l.RaiseError("%s", refusal)
		}
		return 1
	}))
	x.state.SetField(table, "pcall", x.state.NewFunction(func(l *lua.LState) int {
		if refusal := x.server.call(l); refusal != "" {
			t := l.NewTable()
			t.RawSetString("err", lua.LString(refusal))
			l.Push(t)
		}
		return 1
	}))
	x.state.SetGlobal("redis", table)
	return x
}

func (s *simRedis) eval(text string, keys, argv []string) (any, error) {
	proto := s.scripts.compiled[text]
	if proto == nil {
		chunk, err := parse.Parse(strings.NewReader(text), "script")
		if err != nil {
			return nil, err
		}
		if proto, err = lua.Compile(chunk, "script"); err != nil {
			return nil, err
		}
		s.scripts.compiled[text] = proto
	}
	list := func(texts []string) *lua.LTable {
		t := s.scripts.state.NewTable()
		for _, x := range texts {
			t.Append(lua.LString(x))
		}
		return t
	}
	s.scripts.state.SetGlobal("KEYS", list(keys))
	s.scripts.state.SetGlobal("ARGV", list(argv))
	s.scripts.state.Push(s.scripts.state.NewFunctionFromProto(proto))
	if err := s.scripts.state.PCall(0, 1, nil); err != nil {
		return nil, err
	}
	defer s.scripts.state.Pop(1)
	switch v := s.scripts.state.Get(-1).(type) {
	case lua.LNumber:
		return int64(v), nil
	case lua.LString:
		return string(v), nil
	case *lua.LNilType, lua.LBool:
		return nil, nil //nolint:nilnil // a nil reply
	default:
		return nil, fmt.Errorf("script returned %s", v.Type())
	}
}

// call runs one command of a script and pushes its reply, or returns the server's
// error.
func (s *simRedis) call(l *lua.LState) (refusal string) {
	args := make([]string, l.GetTop())
	for i := range args {
		args[i] = l.Get(i + 1).String()
	}
	number := func(i int) int64 {
		switch args[i] {
		case "-inf":
			return -1 << 62
		case "+inf":
			return 1 << 62
		}
		f, err := strconv.ParseFloat(args[i], 64)
		if err != nil {
			l.RaiseError("not a number: %s", args[i])
		}
		return int64(f)
	}
	v, ok := s.get(args[1%len(args)])
	name := strings.ToUpper(args[0])
	if ok && (name == "GET" && v.members != nil || strings.HasPrefix(name, "Z") && v.members == nil) {
		return "WRONGTYPE Operation against a key holding the wrong kind of value"
	}
	switch name {
	case "GET":
		if ok {
			l.Push(lua.LString(v.text))
		} else {
			l.Push(lua.LFalse)
		}
	case "SET":
		v = simValue{text: args[2]}
		if len(args) == 5 {
			switch strings.ToUpper(args[3]) {
			case "PX":
				v.until = s.ms() + number(4)
			case "PXAT":
				v.until = number(4)
			case "EXAT":
				v.until = number(4) * 1000
			default:
				l.RaiseError("SET %s", args[3])
			}
		}
		s.keys[args[1]] = v
		l.Push(lua.LTrue)
	case "PTTL":
		ttl := int64(-2)
		if ok {
			ttl = -1
			if v.until != 0 {
				ttl = v.until - s.ms()
			}
		}
		l.Push(lua.LNumber(ttl))
	case "PEXPIRE", "PERSIST":
		if ok {
			v.until = 0
			if len(args) == 3 {
				v.until = s.ms() + number(2)
			}
			s.keys[args[1]] = v
		}
		l.Push(lua.LNumber(1))
	case "DEL":
		delete(s.keys, args[1])
		l.Push(lua.LNumber(1))
	case "TIME":
		t := l.NewTable()
		t.Append(lua.LString(strconv.FormatInt(s.ms()/1000, 10)))
		t.Append(lua.LString(strconv.FormatInt(s.ms()%1000*1000, 10)))
		l.Push(t)
	case "ZADD":
		if !ok {
			v = simValue{members: map[string]float64{}}
		}
		v.members = maps.Clone(v.members)
		v.members[args[3]] = float64(number(2))
		s.keys[args[1]] = v
		l.Push(lua.LNumber(1))
	case "ZREM":
		v.members = maps.Clone(v.members)
		delete(v.members, args[2])
		if ok {
			s.keys[args[1]] = v
		}
		l.Push(lua.LNumber(1))
	case "ZREMRANGEBYSCORE":
		v.members = maps.Clone(v.members)
		maps.DeleteFunc(v.members, func(_ string, score float64) bool {
			return int64(score) >= number(2) && int64(score) <= number(3)
		})
		if ok {
			s.keys[args[1]] = v
		}
		l.Push(lua.LNumber(1))
	case "ZRANGE":
		members := slices.Sorted(maps.Keys(v.members))
		slices.SortStableFunc(members, func(a, b string) int { return int(v.members[a] - v.members[b]) })
		t := l.NewTable()
		for _, m := range members {
			t.Append(lua.LString(m))
		}
		l.Push(t)
	default:
		l.RaiseError("%s is not simulated", strings.Join(args, " "))
	}
	return ""
}
