package e2e

import (
	"debug/elf"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// TestModuleLibrary: the library exports Envoy's hooks and nothing else, on every
// processor the same. Cross-built for arm64, it needs no newer C library than
// docs/in-process.md says.
func TestModuleLibrary(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	f, err := elf.Open(harness.ModuleLibrary(t))
	require.NoError(t, err)
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	require.NoError(t, err)
	hooks := 0
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF && elf.ST_BIND(s.Info) != elf.STB_LOCAL {
			assert.True(t, strings.HasPrefix(s.Name, "envoy_dynamic_module_on_"), s.Name)
			hooks++
		}
	}
	assert.Positive(t, hooks)
	if !harness.ModuleForARM64() {
		return
	}
	assert.Equal(t, elf.EM_AARCH64, f.Machine)
	imported, err := f.ImportedSymbols()
	require.NoError(t, err)
	newest := 0
	for _, s := range imported {
		if minor, ok := strings.CutPrefix(s.Version, "GLIBC_2."); ok {
			n, err := strconv.Atoi(minor)
			require.NoError(t, err, s.Version)
			newest = max(newest, n)
		}
	}
	assert.Equal(t, 17, newest, "the newest version of glibc that it needs: 2.%d", newest)
}
