package receiver_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz/httpapi/httpapitest"
)

func TestVerification(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	for state, want := range map[string]string{httpapitest.VerifiedState: `{"received":true}`, "another": `{"received":false}`} {
		w := d.Do("GET", "/ssf/verification?state="+state, "")
		assert.Equal(t, 200, w.Code)
		assert.JSONEq(t, want, w.Body.String())
	}
	assert.Equal(t, 400, d.Do("GET", "/ssf/verification", "").Code)
}
