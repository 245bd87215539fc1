package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// spawn starts a child process that writes to NAME.log. The child has a process
// group of its own, so that Ctrl-C does not reach it directly, and is killed if
// this process dies.
func (s *stage) spawn(ctx context.Context, name, path string, args ...string) error {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return err
	}
	// Independent of ctx: stop ends the children in order, with SIGTERM first.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		_ = log.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.ended.Store(true)
		_ = cmd.Wait() // the log says why it ended
		_ = log.Close()
	}()
	s.stops = append(s.stops, func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
		select {
		case <-done:
			return nil
		case <-time.After(12 * time.Second):
			_ = cmd.Process.Kill()
			<-done
			return fmt.Errorf("%s did not end on SIGTERM and was killed", name)
		}
	})
	return nil
}
