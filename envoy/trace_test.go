package envoy

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/metadata"

	"jwtbouncer/authz"
)

func TestSpans(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(spans))
	r := run(t, decide(authz.Decision{Reason: authz.ReasonRevocationUnknown, Route: "api"}), testConfig(), Options{TracerProvider: provider})
	const ofRequest, ofEnvoy = "0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"
	req := checkRequest(map[string]string{"traceparent": "00-" + ofRequest + "-b7ad6b7169203331-01"})
	_, err := r.auth.Check(t.Context(), req)
	require.NoError(t, err)
	_, err = r.auth.Check(metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+ofEnvoy+"-b7ad6b7169203331-01"), req)
	require.NoError(t, err)
	_, err = r.auth.Check(t.Context(), checkRequest(nil))
	require.NoError(t, err)
	got := spans.GetSpans()
	require.Len(t, got, 3)
	assert.Equal(t, ofRequest, got[0].SpanContext.TraceID().String())
	assert.Equal(t, ofEnvoy, got[1].SpanContext.TraceID().String())
	assert.False(t, got[2].Parent.IsValid())
	attributes := fmt.Sprint(got[0].Attributes)
	assert.Contains(t, attributes, "revocation_unknown")
	assert.Contains(t, attributes, "api")
}
