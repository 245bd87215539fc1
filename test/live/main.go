package live

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"jwtbouncer/test/harness"
)

const inNamespace = "JWT_BOUNCER_LIVE_NAMESPACE"

// Main runs the tests of a package in a network namespace of their own, in which
// only loopback exists: the control planes' fixed ports are free there, and nothing
// leaves. Where the machine does not allow that, Main says so and runs them on the
// machine's loopback. Call it from TestMain.
func Main(m *testing.M) {
	if os.Getenv(inNamespace) == "" {
		code, err := runInNamespace()
		if err == nil {
			os.Exit(code)
		}
		fmt.Fprintln(os.Stderr, "no network namespace, so the tests use this machine's loopback and its fixed ports:", err)
	} else if err := loopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, "network namespace:", err)
		os.Exit(1)
	}
	harness.Main(m)
}

// Isolated reports whether the tests run in a network namespace of their own.
func Isolated() bool { return os.Getenv(inNamespace) != "" }

const capNetAdmin = 12 // linux/capability.h

// runInNamespace runs this program again in a new network namespace and returns its
// exit code. It returns an error if the namespace cannot be made.
func runInNamespace() (int, error) {
	// The kernel sends the death signal when the thread that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(os.Args[0], os.Args[1:]...) //nolint:gosec // this program
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		a := cmd.SysProcAttr
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		a.AmbientCaps = []uintptr{capNetAdmin}
	}
	// The child has the terminal's signals too, and ends by them.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		namespace = ""
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	killAll(namespace)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, nil
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code, nil
	}
	return 1, nil
}

// killAll kills the processes that are left in a network namespace, for example an
// Envoy whose control plane was killed.
func killAll(namespace string) {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != namespace {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(link)))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// loopbackUp brings the interface lo up (netdevice(7)).
func loopbackUp() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	request := struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_UP | syscall.IFF_RUNNING}
	copy(request.name[:], "lo")
	//nolint:gosec // the kernel reads a struct ifreq
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("bring up lo: %w", errno)
	}
	return nil
}

// AddAddress gives the namespace's loopback an address, such as a pod's: Kubernetes
// refuses endpoints in 127.0.0.0/8. Addresses are never removed; they end with the
// namespace.
func AddAddress(t testing.TB, ip string) string {
	t.Helper()
	if !Isolated() {
		t.Fatalf("%s can only be added to a network namespace of the tests' own: run them as root, or allow unprivileged user namespaces", ip)
	}
	if err := addAddress(net.ParseIP(ip).To4()); err != nil {
		t.Fatalf("add %s to lo: %v", ip, err)
	}
	return ip
}

// addAddress sends RTM_NEWADDR (rtnetlink(7)) for ip/32 on lo.
func addAddress(ip net.IP) error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	message := struct {
		header  syscall.NlMsghdr
		address syscall.IfAddrmsg
		attr    syscall.RtAttr
		ip      [4]byte
	}{
		header: syscall.NlMsghdr{Type: syscall.RTM_NEWADDR,
			Flags: syscall.NLM_F_REQUEST | syscall.NLM_F_ACK | syscall.NLM_F_CREATE | syscall.NLM_F_REPLACE},
		address: syscall.IfAddrmsg{Family: syscall.AF_INET, Prefixlen: 32, Index: uint32(lo.Index)},
		attr:    syscall.RtAttr{Len: 8, Type: syscall.IFA_LOCAL},
		ip:      [4]byte(ip),
	}
	message.header.Len = uint32(unsafe.Sizeof(message))
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&message)), unsafe.Sizeof(message)) //nolint:gosec // the kernel's layout
	if err := syscall.Sendto(fd, bytes, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	n, _, err := syscall.Recvfrom(fd, reply, 0)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseNetlinkMessage(reply[:n])
	if err != nil || len(messages) == 0 {
		return fmt.Errorf("no reply: %w", err)
	}
	if code := *(*int32)(unsafe.Pointer(&messages[0].Data[0])); code != 0 { //nolint:gosec // struct nlmsgerr
		return syscall.Errno(-code)
	}
	return nil
}
