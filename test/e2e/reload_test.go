package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

// TestReload changes the routes of a running sidecar: by the file alone, by
// SIGHUP, and by a bad file, which changes nothing.
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
	expect("every path needs a token", "/open", "", 401)
	set("routes: [{name: open, public: true, match: {paths: [{prefix: /open}]}}, {name: rest}]\n")
	expect("the file's new public route", "/open", "", 200)
	expect("the rest stays closed", "/shut", "", 401)

	set("routes: [{name: admin, scopes: [admin]}]\n")
	if err := r.Bouncer.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	expect("the scope that SIGHUP brought", "/open", token, 403)

	for i, bad := range []string{"routes: [{name: open, pulbic: true}]\n", "routes: [{public: true, scopes: [x]}]\n", "routes: [\n"} {
		set(bad)
		if err := r.Bouncer.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, 15*time.Second, "the fault in the log", func(context.Context) error {
			if strings.Count(r.Bouncer.Log(), "configuration not reloaded") <= i {
				return errors.New("not logged")
			}
			return nil
		})
		expect("a bad file changes nothing", "/open", token, 403)
		expect("and opens nothing", "/open", "", 401)
	}
}
