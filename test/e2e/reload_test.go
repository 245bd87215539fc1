package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// TestReload changes the routes of a running sidecar, by replacing the file and
// by SIGHUP. An invalid file changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{})
	token := r.Token(map[string]any{"scope": "read"})
	base := r.Config + "\n"
	set := func(routes string) { r.Bouncer.SetConfig(t, base+routes) }
	expect := func(what, path, token string, status int) {
		t.Helper()
		harness.Eventually(t, 15*time.Second, what, func(ctx context.Context) error {
			var header []string
			if token != "" {
				header = []string{"Authorization", "Bearer " + token}
			}
			reply, err := r.Front.Do(ctx, "GET", path, header...)
			if err == nil && reply.Status != status {
				err = fmt.Errorf("%s: status %d, want %d", path, reply.Status, status)
			}
			return err
		})
	}
	expect("every path requires a token", "/open", "", 401)
	set("routes: [{name: open, public: true, match: {paths: [{prefix: /open}]}}, {name: rest}]\n")
	expect("the new public route is open", "/open", "", 200)
	expect("other paths require a token", "/shut", "", 401)

	set("routes: [{name: admin, scopes: [admin]}]\n")
	require.NoError(t, r.Bouncer.Signal(syscall.SIGHUP))
	expect("the scope of the new route is required after SIGHUP", "/open", token, 403)

	for i, bad := range []string{"routes: [{name: open, pulbic: true}]\n", "routes: [{public: true, scopes: [x]}]\n", "routes: [\n"} {
		set(bad)
		require.NoError(t, r.Bouncer.Signal(syscall.SIGHUP))
		harness.Eventually(t, 15*time.Second, "the error is logged", func(context.Context) error {
			if strings.Count(r.Bouncer.Log(), "configuration not reloaded") <= i {
				return errors.New("not logged")
			}
			return nil
		})
		expect("an invalid file changes nothing", "/open", token, 403)
		expect("an invalid file opens no path", "/open", "", 401)
	}
}
