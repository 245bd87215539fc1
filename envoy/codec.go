package envoy

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto" // registers the standard codec
	"google.golang.org/grpc/mem"
)

// codec hands the bytes of Check through to this package and everything else
// (health, reflection) to the standard codec. The generated types cost about
// 40 allocations per request, more than the whole decision; see
// docs/performance.md for the measurement.
type codec struct{ standard encoding.CodecV2 }

var _ encoding.CodecV2 = codec{}

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

type (
	// wireRequest is a CheckRequest as it came, copied out of the transport's
	// buffers once, so that strings may alias it for as long as they like.
	wireRequest struct{ bytes []byte }
	// wireResponse is an encoded CheckResponse. Answers are shared between
	// checks: it is only ever read.
	wireResponse struct{ bytes []byte }
)

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*wireResponse); ok {
		return mem.BufferSlice{mem.SliceBuffer(r.bytes)}, nil
	}
	b, err := c.standard.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("standard codec: %w", err)
	}
	return b, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*wireRequest); ok {
		r.bytes = data.Materialize()
		return nil
	}
	if err := c.standard.Unmarshal(data, v); err != nil {
		return fmt.Errorf("standard codec: %w", err)
	}
	return nil
}

func (codec) Name() string { return proto.Name }
