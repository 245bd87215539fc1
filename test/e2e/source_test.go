package e2e

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// source.address is the peer of the connection, whatever x-forwarded-for says:
// the front's connection manager has use_remote_address false, as Envoy's default
// is, and so believes that header itself.
func TestForwardedForIsNotTheSource(t *testing.T) {
	t.Parallel()
	throughDoors(t, testForwardedForIsNotTheSource)
}

func testForwardedForIsNotTheSource(t *testing.T, module bool) {
	t.Helper()
	r := harness.NewRig(t, harness.RigOptions{Module: module, Config: `
routes:
  - {name: inside, match: {paths: [{prefix: /inside}]}, allow: ["cidr('10.0.0.0/8').containsIP(source.address)"]}
  - {name: here, match: {paths: [{prefix: /here}]}, allow: ["source.address == '127.0.0.1'"]}
`})
	bearer := "Bearer " + r.Token(nil)
	here := http.StatusOK
	if module && harness.OldModuleEnvoy(t) {
		here = http.StatusForbidden // it cannot say, and an unknown address denies
	}
	for path, want := range map[string]int{"/inside": http.StatusForbidden, "/here": here} {
		reply, err := r.Front.Do(t.Context(), http.MethodGet, path, "Authorization", bearer, "X-Forwarded-For", "10.1.2.3")
		require.NoError(t, err)
		require.Equal(t, want, reply.Status, path)
	}
}
