//go:build keycloak

package idp

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

// log collects the output of a process.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newKeycloak returns an administrator of the server at -keycloak, or else of one that
// it starts for the test, from .tools.
func newKeycloak(t *testing.T) *keycloak {
	t.Helper()
	k := &keycloak{t, &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	if *keycloakURL != "" {
		return k
	}
	start := filepath.Join(harness.Root(), ".tools", "keycloak", "bin", "kc.sh")
	if _, err := os.Stat(start); err != nil {
		t.Fatalf("%v: make test-keycloak fetches Keycloak; -keycloak names one that runs", err)
	}
	port := harness.Port(t)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), start, "start-dev", "--features=ssf", "--db=dev-mem", "--http-host=127.0.0.1", fmt.Sprint("--http-port=", port), fmt.Sprint("--http-management-port=", harness.Port(t)), "--spi-ssf-transmitter--default--min-verification-interval-seconds=1")
	var out log
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD=admin", "JAVA_OPTS_APPEND=-Xmx700m")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		*keycloakURL = ""
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the script and the server
		_ = cmd.Wait()
		if t.Failed() {
			t.Log("Keycloak:\n" + out.String())
		}
	})
	*keycloakURL = fmt.Sprintf("http://127.0.0.1:%d", port)
	harness.Eventually(t, 5*time.Minute, "Keycloak answers", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, *keycloakURL+"/realms/master", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := k.client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	})
	return k
}
