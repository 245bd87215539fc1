package wire

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto" // registers the standard codec
	"google.golang.org/grpc/mem"
)

// RawRequest receives an encoded CheckRequest. Bytes is a copy that nothing else refers to, so
// strings may alias it for as long as they need to.
type RawRequest struct{ Bytes []byte }

// RawResponse sends an encoded CheckResponse. Bytes may be shared between calls and is only
// read.
type RawResponse struct{ Bytes []byte }

// Codec is the gRPC codec of a server for Check. It copies RawRequest and RawResponse verbatim
// and leaves all other messages, such as those of health and reflection, to the standard
// protobuf codec.
type Codec struct{ standard encoding.CodecV2 }

var _ encoding.CodecV2 = Codec{}

// NewCodec returns a Codec.
func NewCodec() Codec { return Codec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*RawResponse); ok {
		return mem.BufferSlice{mem.SliceBuffer(r.Bytes)}, nil
	}
	b, err := c.standard.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("standard codec: %w", err)
	}
	return b, nil
}

// Unmarshal implements encoding.CodecV2.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*RawRequest); ok {
		r.Bytes = data.Materialize()
		return nil
	}
	if err := c.standard.Unmarshal(data, v); err != nil {
		return fmt.Errorf("standard codec: %w", err)
	}
	return nil
}

// Name implements encoding.CodecV2. It is the name of the standard codec, which clients
// request.
func (Codec) Name() string { return proto.Name }
