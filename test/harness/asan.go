package harness

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// ModuleSanitized reports whether the dynamic module is built with AddressSanitizer and
// UndefinedBehaviorSanitizer: JWT_BOUNCER_MODULE_ASAN is set. A fault that they find ends
// Envoy, with a report in its log.
func ModuleSanitized() bool { return os.Getenv("JWT_BOUNCER_MODULE_ASAN") != "" }

// sanitizeBuild changes the command that builds the dynamic module. The library keeps
// its symbols, for the report.
func sanitizeBuild(cmd *exec.Cmd) {
	for i, arg := range cmd.Args {
		cmd.Args[i] = strings.TrimPrefix(arg, "-s -w ")
	}
	cmd.Args = slices.Insert(cmd.Args, 2, "-asan")
	cmd.Env = append(cmd.Env, "CGO_CFLAGS=-O1 -g -fno-omit-frame-pointer -fsanitize=undefined -fno-sanitize-recover=all", "CGO_LDFLAGS=-fsanitize=undefined")
}

// sanitizedEnvoy returns a copy of an Envoy that bears AddressSanitizer, and the
// environment that it needs.
//
// The sanitizer must be the allocator of the C library and of the module. Envoy exports
// an allocator of its own, which would come first and calls the sanitizer before that is
// ready. The copy does not export it.
func sanitizedEnvoy(path string) (copied string, env []string, err error) {
	sanitized.Lock()
	defer sanitized.Unlock()
	if sanitized.dir == "" {
		if sanitized.dir, err = newDir(); err != nil {
			return "", nil, err
		}
		atEnd(func() { _ = os.RemoveAll(sanitized.dir) })
	}
	copied, heap := filepath.Join(sanitized.dir, "envoy"), filepath.Join(sanitized.dir, "envoy_heap.so")
	if _, err := os.Stat(copied); err != nil {
		text, err := os.ReadFile(path)
		if err == nil {
			err = hideAllocator(text)
		}
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", path, err)
		}
		source := filepath.Join(Root(), "test/harness/testdata/envoy_heap.c")
		if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", heap, source).CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("gcc: %w\n%s", err, out)
		}
		if err := os.Chmod(heap, 0o755); err != nil {
			return "", nil, err
		}
		if err := os.WriteFile(copied, text, 0o755); err != nil {
			return "", nil, err
		}
	}
	asan, err := exec.Command("gcc", "-print-file-name=libasan.so").Output()
	if err != nil {
		return "", nil, fmt.Errorf("gcc: %w", err)
	}
	return copied, []string{
		"LD_PRELOAD=" + heap + " " + strings.TrimSpace(string(asan)),
		// The sanitizer cannot see pointers in Envoy's own memory, and would call leaked
		// what only these lead to.
		"ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0",
		"UBSAN_OPTIONS=print_stacktrace=1",
	}, nil
}

var sanitized struct {
	sync.Mutex
	dir string
}

// hideAllocator makes the functions of C's allocator local to an executable.
func hideAllocator(executable []byte) error {
	f, err := elf.NewFile(bytes.NewReader(executable))
	if err != nil {
		return err
	}
	table, symbols := f.SectionByType(elf.SHT_DYNSYM), []elf.Symbol(nil)
	if table != nil {
		symbols, err = f.DynamicSymbols()
	}
	if table == nil || err != nil {
		return fmt.Errorf("no dynamic symbols: %w", err)
	}
	hidden := 0
	for i, s := range symbols {
		if s.Section == elf.SHN_UNDEF || !slices.Contains(allocator, s.Name) {
			continue
		}
		// DynamicSymbols leaves the first symbol out. The second field of a symbol, after
		// a name of four bytes, is its binding and type.
		at := table.Offset + uint64(i+1)*elf.Sym64Size + 4
		executable[at] = elf.ST_INFO(elf.STB_LOCAL, elf.ST_TYPE(s.Info))
		hidden++
	}
	if hidden == 0 {
		return fmt.Errorf("exports no allocator")
	}
	return nil
}

var allocator = []string{
	"malloc", "free", "calloc", "realloc", "reallocarray", "memalign", "aligned_alloc", "posix_memalign", "valloc", "pvalloc",
	"malloc_usable_size", "mallinfo", "mallopt", "malloc_stats", "malloc_trim", "malloc_info",
	"__malloc_hook", "__free_hook", "__memalign_hook", "__realloc_hook",
}
