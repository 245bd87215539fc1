package envoy

import (
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"jwtbouncer/authz"
)

func TestChallengeForProof(t *testing.T) {
	t.Parallel()
	d := newDenials(RepliesConfig{Realm: "api", ResourceMetadata: "https://api.example/meta"}, encodeCheckResponse)
	for name, tt := range map[string]struct {
		decision authz.Decision
		status   int32
		headers  map[string]string
	}{
		"bad proof": {
			authz.Decision{Reason: authz.ReasonBindingMismatch, Challenge: &authz.Challenge{Scheme: "dpop", Error: "invalid_dpop_proof", Algorithms: []string{"ES256", "EdDSA"}}},
			401, map[string]string{"www-authenticate": `DPoP realm="api", error="invalid_dpop_proof"`},
		},
		"algorithms": {
			authz.Decision{Reason: authz.ReasonBindingMismatch, Challenge: &authz.Challenge{Scheme: "dpop", Algorithms: []string{"ES256", "EdDSA"}}},
			401, map[string]string{"www-authenticate": `algs="ES256 EdDSA"`},
		},
		"no credential": {
			authz.Decision{Reason: authz.ReasonNoCredential, Challenge: &authz.Challenge{Scheme: "dpop"}},
			401, map[string]string{"www-authenticate": `DPoP realm="api", resource_metadata="https://api.example/meta"`},
		},
		"nonce": {
			authz.Decision{Reason: authz.ReasonBindingMismatch, Challenge: &authz.Challenge{Scheme: "dpop", Error: "use_dpop_nonce", Nonce: "n-1"}},
			401, map[string]string{"www-authenticate": `error="use_dpop_nonce"`, "dpop-nonce": "n-1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var resp authv3.CheckResponse
			require.NoError(t, proto.Unmarshal(d.response(&tt.decision, false), &resp))
			denied := resp.GetDeniedResponse()
			require.Equalf(t, tt.status, int32(denied.GetStatus().GetCode()), "answered %v", denied)
			for name, part := range tt.headers {
				found := false
				for _, h := range denied.GetHeaders() {
					found = found || h.GetHeader().GetKey() == name && strings.Contains(h.GetHeader().GetValue(), part)
				}
				if !found {
					t.Errorf("no %s with %s in %v", name, part, denied.GetHeaders())
				}
			}
		})
	}
}
