// Command baseline is an ext_authz server that the product is compared with. It
// prints its address and serves until standard input is closed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/redis/go-redis/v9"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"jwtbouncer/envoy"
	"jwtbouncer/envoy/sidecar"
)

func main() {
	kind := flag.String("kind", "", "floor, noop, verify, redis or postgres")
	tuned := flag.Bool("tuned", false, "pace the collector and set the gRPC server up as the product does; without it, both have their defaults")
	jwks := flag.String("jwks", "", "key set file")
	redisURL := flag.String("redis", "", "Redis URL, for -kind redis")
	postgresURL := flag.String("postgres", "", "database URL, for -kind postgres")
	flag.Parse()
	var settings []grpc.ServerOption
	if *tuned {
		sidecar.PaceCollector() // until the process ends
		settings = envoy.TransportOptions(envoy.DefaultConfig().Listen.MaxStreams)
	}
	if err := run(settings, *kind, *jwks, *redisURL, *postgresURL); err != nil {
		fmt.Fprintln(os.Stderr, "baseline:", err)
		os.Exit(1)
	}
}

func run(settings []grpc.ServerOption, kind, jwks, redisURL, postgresURL string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s, err := server(settings, kind, jwks, redisURL, postgresURL)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
		s.Stop()
	}()
	return s.Serve(l)
}

func server(settings []grpc.ServerOption, kind, jwks, redisURL, postgresURL string) (*grpc.Server, error) {
	if kind == "floor" {
		s := grpc.NewServer(append(settings, grpc.ForceServerCodecV2(bytesCodec{}))...)
		s.RegisterService(&grpc.ServiceDesc{
			ServiceName: "envoy.service.auth.v3.Authorization", HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: "Check", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var in []byte
				return constant, dec(&in)
			}}},
		}, nil)
		return s, nil
	}
	s := grpc.NewServer(settings...)
	c := &checker{}
	if kind != "noop" {
		text, err := os.ReadFile(jwks)
		if err != nil {
			return nil, err
		}
		if c.keys, err = jwk.Parse(text); err != nil {
			return nil, err
		}
	}
	switch kind {
	case "noop", "verify":
	case "redis":
		o, err := redis.ParseURL(redisURL)
		if err != nil {
			return nil, err
		}
		client := redis.NewClient(o)
		c.revoked = func(ctx context.Context, jti string) (bool, error) {
			err := client.Get(ctx, "token:revoked:"+jti).Err()
			if errors.Is(err, redis.Nil) {
				return false, nil
			}
			return err == nil, err
		}
	case "postgres":
		pool, err := pgxpool.New(context.Background(), postgresURL)
		if err != nil {
			return nil, err
		}
		c.revoked = func(ctx context.Context, jti string) (bool, error) {
			var one int
			err := pool.QueryRow(ctx, "select 1 from revoked_tokens where jti = $1", jti).Scan(&one)
			if errors.Is(err, pgx.ErrNoRows) {
				return false, nil
			}
			return err == nil, err
		}
	default:
		return nil, fmt.Errorf("unknown kind %q", kind)
	}
	authv3.RegisterAuthorizationServer(s, c)
	return s, nil
}

// checker is an ext_authz server as examples show it.
type checker struct {
	authv3.UnimplementedAuthorizationServer
	keys    jwk.Set // nil means that tokens are not verified
	revoked func(ctx context.Context, jti string) (bool, error)
}

func (c *checker) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	if c.keys == nil {
		return allow(), nil
	}
	header := req.GetAttributes().GetRequest().GetHttp().GetHeaders()["authorization"]
	token, err := jwt.Parse([]byte(strings.TrimPrefix(header, "Bearer ")), jwt.WithKeySet(c.keys), jwt.WithValidate(true), jwt.WithAudience("api"))
	if err != nil {
		return deny(), nil //nolint:nilerr // an invalid token is denied, not an RPC error
	}
	if c.revoked != nil {
		if revoked, err := c.revoked(ctx, token.JwtID()); err != nil || revoked {
			return deny(), nil //nolint:nilerr // so is a token whose revocation is unknown
		}
	}
	return allow(&core.HeaderValueOption{
		Header:       &core.HeaderValue{Key: "x-jwt-sub", Value: token.Subject()},
		AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}), nil
}

func allow(headers ...*core.HeaderValueOption) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: headers}},
	}
}

func deny() *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{Code: int32(codes.Unauthenticated)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{}},
	}
}

// constant is the encoding of allow().
var constant = []byte{0x0a, 0x00, 0x1a, 0x00}

// bytesCodec sends encoded messages as they are and ignores received ones.
type bytesCodec struct{}

var _ encoding.CodecV2 = bytesCodec{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, _ := v.([]byte)
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (bytesCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

func (bytesCodec) Name() string { return "proto" }
