package httpapi_test

import (
	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi/httpapitest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAuditLog(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, httpapitest.WithToken(httpapitest.SecretFile(t, "alice "+httpapitest.APIToken)))
	token := httpapitest.UnsignedJWT(`{"iss":"` + httpapitest.IssuerA + `","exp":4102444800}`)
	auth := []string{"Authorization", "Bearer " + httpapitest.APIToken, "X-Request-Id", "req-1\n{\"level\":\"forged\"}"}
	require.Equal(t, 201, b.Do("POST", "/v1/revocations", `[{"token":"`+token+`","reason":"stolen\n{\"x\":1}"},{"sub":"bob"}]`, auth...).Code)
	b.Ledger.SetFail(authz.ErrUnavailable)
	require.Equal(t, 503, b.Do("POST", "/v1/revocations", `{"jti":"j"}`, auth...).Code)
	lines := strings.Split(strings.TrimSpace(b.Log.String()), "\n")
	require.Len(t, lines, 3, "one record for each revocation, whatever text they hold")
	var rec struct{ Log, Source, Actor, Outcome, Error, Kind, Value, Reason, ID string }
	fold := json.MatchCaseInsensitiveNames(true)
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &rec, fold))
	assert.Equal(t, "audit", rec.Log)
	assert.Equal(t, "api:alice", rec.Actor)
	assert.Equal(t, "stored", rec.Outcome)
	assert.Equal(t, authz.TokenValue(token), rec.Value)
	assert.Equal(t, "stolen\n{\"x\":1}", rec.Reason)
	assert.NotEmpty(t, rec.ID)
	require.NoError(t, json.Unmarshal([]byte(lines[2]), &rec, fold))
	assert.Equal(t, "failed", rec.Outcome)
	assert.Contains(t, rec.Error, authz.ErrUnavailable.Error(), "under the name that errors have in every record")
	assert.NotContains(t, b.Log.String(), httpapitest.APIToken)
	assert.NotContains(t, b.Log.String(), token)
	assert.NotContains(t, b.Log.String(), "eyJ")
}
