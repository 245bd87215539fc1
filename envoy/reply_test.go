package envoy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"jwtbouncer/authz"
)

// strict decodes a CheckResponse and checks the rules that every response must follow.
func strict(t testing.TB, b []byte) *authv3.CheckResponse {
	t.Helper()
	var r authv3.CheckResponse
	require.NoError(t, proto.Unmarshal(b, &r))
	require.NoError(t, r.ValidateAll())
	require.Empty(t, r.ProtoReflect().GetUnknown())
	require.NotNil(t, r.GetStatus(), "Envoy takes an unset status for an allow")
	require.Nil(t, r.GetErrorResponse(), "Envoy allows on error_response if failure_mode_allow is on")
	ok, denied := r.GetOkResponse(), r.GetDeniedResponse()
	if r.GetStatus().GetCode() == int32(codes.OK) {
		require.NotNil(t, ok)
		require.Nil(t, denied)
		return &r
	}
	require.NotNil(t, denied)
	require.Nil(t, ok)
	require.GreaterOrEqual(t, int(denied.GetStatus().GetCode()), 400)
	return &r
}

func headerMap(t testing.TB, list []*core.HeaderValueOption) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, h := range list {
		require.Equal(t, core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, h.GetAppendAction())
		require.NotContains(t, m, h.GetHeader().GetKey(), "set twice")
		m[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	return m
}

func TestEveryReasonHasAReply(t *testing.T) {
	t.Parallel()
	for _, reason := range authz.Reasons() {
		row, ok := replies[reason]
		if (authz.Decision{Reason: reason}).Allowed() {
			assert.False(t, ok, "%s allows, so it has no reply", reason)
			assert.Equal(t, http.StatusForbidden, replyTo(reason).status)
			continue
		}
		require.True(t, ok, "%s has no row in the reply table", reason)
		assert.True(t, quotable(row.sentence), reason.String())
		assert.NotEqual(t, codes.OK, row.grpc, reason.String())
		switch row.code { // RFC 6750, section 3.1
		case "invalid_request":
			assert.Equal(t, http.StatusBadRequest, row.status, reason.String())
		case "invalid_token":
			assert.Equal(t, http.StatusUnauthorized, row.status, reason.String())
		case "insufficient_scope":
			assert.Equal(t, http.StatusForbidden, row.status, reason.String())
		default:
			assert.Empty(t, row.code, reason.String())
		}
	}
}

func TestReplies(t *testing.T) {
	t.Parallel()
	d := newDenials(DefaultConfig().Replies, encodeCheckResponse)
	var b strings.Builder
	for _, reason := range authz.Reasons() {
		if (authz.Decision{Reason: reason}).Allowed() {
			continue
		}
		fmt.Fprintf(&b, "== %s\n", reason)
		show(t, &b, d.response(&authz.Decision{Reason: reason}, false))
		b.WriteString("-- to gRPC\n")
		show(t, &b, d.response(&authz.Decision{Reason: reason}, true))
	}
	more := newDenials(RepliesConfig{Realm: "api", ResourceMetadata: "https://api.test/.well-known/oauth-protected-resource", RetryAfter: 7e9}, encodeCheckResponse)
	b.WriteString("== insufficient_scope of a route, with resource metadata\n")
	show(t, &b, more.response(&authz.Decision{Reason: authz.ReasonInsufficientScope, RequiredScopes: []string{"read", "write"}}, false))
	b.WriteString("== no_credential, with resource metadata\n")
	show(t, &b, more.response(&authz.Decision{Reason: authz.ReasonNoCredential}, false))
	b.WriteString("== binding_mismatch of a DPoP token\n")
	show(t, &b, more.response(&authz.Decision{Reason: authz.ReasonBindingMismatch, Credential: authz.Credential{Scheme: "dpop"}}, false))
	b.WriteString("== revocation_unknown, retry after 7 s\n")
	show(t, &b, more.response(&authz.Decision{Reason: authz.ReasonRevocationUnknown}, false))
	golden(t, "testdata/replies.golden", b.String())
}

func show(t *testing.T, b *strings.Builder, answer []byte) {
	t.Helper()
	r := strict(t, answer)
	d := r.GetDeniedResponse()
	fmt.Fprintf(b, "status %d, %s\n", d.GetStatus().GetCode(), codes.Code(r.GetStatus().GetCode()))
	headerMap(t, d.GetHeaders())
	for _, h := range d.GetHeaders() {
		fmt.Fprintf(b, "%s: %s\n", h.GetHeader().GetKey(), h.GetHeader().GetValue())
	}
	b.WriteString(d.GetBody() + "\n")
	if strings.HasPrefix(d.GetBody(), "{") {
		assert.True(t, json.Valid([]byte(d.GetBody())))
	}
}

func TestReasonsOutOfRangeAreDenied(t *testing.T) {
	t.Parallel()
	d := newDenials(DefaultConfig().Replies, encodeCheckResponse)
	for _, reason := range []authz.Reason{authz.ReasonUnset, authz.ReasonAllowed, authz.ReasonAllowedAnonymous, authz.Reason(len(authz.Reasons())), 255} {
		r := strict(t, d.response(&authz.Decision{Reason: reason}, false))
		assert.Equal(t, int32(codes.PermissionDenied), r.GetStatus().GetCode(), "reason %d", reason)
	}
}

// The table in the documentation is generated from replies.
func TestDocumentedReplies(t *testing.T) {
	t.Parallel()
	const file = "../docs/headers.md"
	var b strings.Builder
	b.WriteString("| reason | HTTP | gRPC | error | sentence |\n|---|---|---|---|---|\n")
	for _, reason := range authz.Reasons() {
		if row, ok := replies[reason]; ok {
			fmt.Fprintf(&b, "| `%s` | %d | %s | %s | %s |\n", reason, row.status, row.grpc, row.code, row.sentence)
		}
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), "<!-- replies -->\n")
	require.True(t, ok)
	_, after, ok := strings.Cut(rest, "<!-- end: replies -->")
	require.True(t, ok)
	golden(t, file, before+"<!-- replies -->\n"+b.String()+"<!-- end: replies -->"+after)
}
