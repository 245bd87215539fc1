package harness

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
)

// ModuleForARM64 reports whether the Envoy of the dynamic module is for arm64 and this
// machine is not. Then the module is built for arm64 too, and both run in QEMU.
func ModuleForARM64() bool {
	path := os.Getenv("JWT_BOUNCER_MODULE_ENVOY")
	if path == "" || runtime.GOARCH == "arm64" {
		return false
	}
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Machine == elf.EM_AARCH64
}

// crossBuild changes the command that builds the dynamic module: docs/in-process.md has
// the same compiler and target.
func crossBuild(cmd *exec.Cmd) {
	zig := filepath.Join(Root(), ".tools/zig/ziglang/zig")
	cmd.Env = append(cmd.Env, "GOARCH=arm64", fmt.Sprintf("CC=%s cc -target aarch64-linux-gnu.2.28", zig))
}

// emulatedEnvoy returns a program that runs the Envoy at the path in QEMU.
var emulatedEnvoy = sync.OnceValues(func() (string, error) {
	path, err := moduleEnvoyPath()
	if err != nil {
		return "", err
	}
	dir, err := newDir()
	if err != nil {
		return "", err
	}
	atEnd(func() { _ = os.RemoveAll(dir) })
	script := filepath.Join(dir, "envoy")
	return script, os.WriteFile(script, []byte("#!/bin/sh\nexec qemu-aarch64-static -L /usr/aarch64-linux-gnu "+path+" \"$@\"\n"), 0o755)
})
