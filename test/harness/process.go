package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a child process with its log.
type Process struct {
	Name string

	cmd    *exec.Cmd
	log    string // file
	exited chan struct{}
	err    error // of Wait; read after exited is closed
}

// command describes a child process. death is the signal that the kernel sends
// to the child when this process dies; 0 means SIGKILL.
type command struct {
	name  string
	path  string
	args  []string
	env   []string // added to a minimal environment
	dir   string   // working directory; the log is written there too
	death syscall.Signal
	self  bool // run as the user who runs the tests
}

// start starts c and does not wait until it is ready.
func start(c command) (*Process, error) {
	log, err := os.OpenFile(filepath.Join(c.dir, c.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if c.death == 0 {
		c.death = syscall.SIGKILL
	}
	cmd := exec.Command(c.path, c.args...)
	cmd.Dir = c.dir
	cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=" + c.dir}, c.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: c.death, Setpgid: true}
	if !c.self {
		cmd.SysProcAttr.Credential = credential()
	}
	p := &Process{Name: c.name, cmd: cmd, log: log.Name(), exited: make(chan struct{})}
	if err := forks.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	go func() {
		if p.err = cmd.Wait(); p.err == nil {
			p.err = errors.New("exit status 0")
		}
		close(p.exited)
		forks.done()
	}()
	return p, nil
}

// PID returns the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited returns a channel that is closed when the child has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitCode waits up to wait for the child to end and returns its exit code, or
// -1 if a signal ended it. It returns an error if the child is still running.
func (p *Process) ExitCode(wait time.Duration) (int, error) {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(wait):
		return 0, fmt.Errorf("%s is still running after %s", p.Name, wait)
	}
}

// Signal sends s to the child alone.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Pause stops the child and its descendants (SIGSTOP). Connections stay open
// and receive no response.
func (p *Process) Pause() error { return p.signalAll(syscall.SIGSTOP) }

// Resume undoes Pause.
func (p *Process) Resume() error { return p.signalAll(syscall.SIGCONT) }

func (p *Process) signalAll(s syscall.Signal) error {
	pids := descendants(p.PID()) // before p dies, which re-parents them
	errs := []error{p.Signal(s)}
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Kill kills the child (SIGKILL) and waits until it has ended.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL)
	<-p.exited
}

// Stop sends s to the child, kills it if it runs longer than wait, and returns
// when it has ended.
func (p *Process) Stop(s os.Signal, wait time.Duration) {
	_ = p.Signal(s)
	_ = p.Signal(syscall.SIGCONT)
	select {
	case <-p.exited:
	case <-time.After(wait):
		_ = p.signalAll(syscall.SIGKILL)
		<-p.exited
	}
}

// Log returns what the child has written so far.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// tail returns the end of the log, for failure messages.
func (p *Process) tail() string {
	const most = 8 << 10
	s := p.Log()
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}

// attach prints the end of the log if t has failed.
func (p *Process) attach(t testing.TB) {
	if t.Failed() {
		t.Logf("--- log of %s (pid %d):\n%s", p.Name, p.PID(), p.tail())
		keep(p)
	}
}

// keep copies the whole log to the directory in $HARNESS_LOGS, if it is set.
func keep(p *Process) {
	if dir := os.Getenv("HARNESS_LOGS"); dir != "" {
		_ = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d.log", p.Name, p.PID())), []byte(p.Log()), 0o600)
	}
}

// await polls ready until it returns nil, the child ends, or wait is over.
func (p *Process) await(wait time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	err := Poll(ctx, 10*time.Millisecond, func(ctx context.Context) error {
		select {
		case <-p.exited:
			cancel()
			return p.err
		default:
		}
		try, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		return ready(try)
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%s ended before it was ready: %w\n%s", p.Name, err, p.tail())
	}
	return fmt.Errorf("%s was not ready within %s: %w\n%s", p.Name, wait, err, p.tail())
}

// portTaken reports whether the child ended because its port was in use.
func (p *Process) portTaken() bool {
	s := strings.ToLower(p.Log())
	return strings.Contains(s, "address already in use") || strings.Contains(s, "address in use")
}

// descendants returns the descendants of pid, children before grandchildren.
func descendants(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		// pid (comm) state ppid …: comm may contain ')', so cut at the last one.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		id, err1 := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		parent, err2 := strconv.Atoi(string(fields[1]))
		if err1 == nil && err2 == nil {
			children[parent] = append(children[parent], id)
		}
	}
	var all []int
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		all = append(all, queue[0])
		queue = append(queue, children[queue[0]]...)
	}
	return all
}

// forks starts children from one thread that outlives all of them. The kernel
// sends the death signal when the thread that forked ends, and Go ends threads
// at any time.
var forks forker

type forker struct {
	mu    sync.Mutex
	live  int
	queue chan fork
}

type fork struct {
	cmd *exec.Cmd
	err chan error
}

func (f *forker) start(cmd *exec.Cmd) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live == 0 {
		f.queue = make(chan fork)
		go func(queue chan fork) {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			for r := range queue {
				r.err <- r.cmd.Start()
			}
		}(f.queue)
	}
	r := fork{cmd, make(chan error)}
	f.queue <- r
	err := <-r.err
	if err == nil {
		f.live++
	} else if f.live == 0 {
		close(f.queue)
	}
	return err
}

func (f *forker) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live--; f.live == 0 {
		close(f.queue)
	}
}
