package authz

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sizeOf estimates what the heap gains, or somewhat more, for small maps too, of
// which a short text makes many.
func TestSizes(t *testing.T) { //nolint:paralleltest // measures the heap
	list := func(n int, item func(i int) string) string {
		items := make([]string, n)
		for i := range items {
			items[i] = item(i)
		}
		return strings.Join(items, ",")
	}
	same := func(s string) func(int) string { return func(int) string { return s } }
	member := func(i int) string { return fmt.Sprintf(`"member-%d":true`, i) }
	shapes := map[string]string{
		"small objects": `{"x":[` + list(900, same(`{"a":0}`)) + `]}`,
		"empty objects": `{"x":[` + list(1900, same(`{}`)) + `]}`,
		"empty arrays":  `{"x":[` + list(1900, same(`[]`)) + `]}`,
		"nested":        `{"x":[` + list(600, same(`[[1]]`)) + `]}`,
		"strings":       `{"x":[` + list(1900, same(`"ab"`)) + `]}`,
		"escapes":       `{"x":[` + list(1900, same(`"\n"`)) + `]}`,
		"numbers":       `{"x":[` + list(1900, same("12")) + `]}`,
		"words":         `{"x":[` + list(1900, same("null")) + `]}`,
		"one string":    `{"x":"` + strings.Repeat("x", 20_000) + `"}`,
	}
	for _, n := range []int{1, 8, 9, 14, 15, 30, 200, 450, 900, 1900} {
		shapes[fmt.Sprintf("object of %d", n)] = "{" + list(n, member) + "}"
		shapes[fmt.Sprintf("array of %d", n)] = `{"x":[` + list(n, same("0")) + "]}"
	}
	for name, text := range shapes {
		one, err := decodeObject(text)
		require.NoErrorf(t, err, "%v %v", name, err)
		estimate, _ := sizeOf(one)
		copies := max(20, 2<<20/estimate)
		kept := make([]map[string]any, copies)
		before := heapInUse()
		for i := range kept {
			kept[i], err = decodeObject(strings.Clone(text))
			require.NoErrorf(t, err, "%v %v", name, err)
		}
		gained := (heapInUse() - before) / int64(copies)
		estimate += len(text) // which the values share, and Size counts
		t.Logf("%-16s %7d bytes estimated, %7d gained", name, estimate, gained)
		assert.GreaterOrEqualf(t, int64(estimate), gained*9/10, "%s: %d bytes are estimated where the heap gains %d", name, estimate, gained)
		assert.LessOrEqualf(t, int64(estimate), gained*9/4, "%s: %d bytes are estimated where the heap gains %d", name, estimate, gained)
		runtime.KeepAlive(kept)
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func decodeObject(text string) (m map[string]any, err error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	return m, dec.Decode(&m)
}
