package store

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"jwtbouncer/authz"
)

// copyOf builds what the server sends for these rows.
func copyOf(snapshot []string, rows []authz.Row) []byte {
	b := []byte(copySignature)
	b = append(b, make([]byte, 8)...)
	u32 := func(n int32) { b = binary.BigEndian.AppendUint32(b, uint32(n)) }
	u64 := func(n uint64) { u32(8); b = binary.BigEndian.AppendUint64(b, n) }
	b = binary.BigEndian.AppendUint16(b, 5)
	for range 4 {
		u32(-1)
	}
	size := 20
	for _, s := range snapshot {
		size += 4 + len(s)
	}
	u32(int32(size))
	u32(1)
	u32(0)
	u32(25)
	u32(int32(len(snapshot)))
	u32(1)
	for _, s := range snapshot {
		u32(int32(len(s)))
		b = append(b, s...)
	}
	for _, r := range rows {
		b = binary.BigEndian.AppendUint16(b, 5)
		u32(16)
		b = append(b, r.Key[:]...)
		u64(uint64(r.NotBefore))
		u64(uint64(r.Expires))
		u64(r.XID)
		u32(-1)
	}
	return append(b, 0xff, 0xff)
}

var someSnapshot = []string{"1", "n", "7", "00000001", "1", "false", "true", "1700000000.5", "30", "604800.0", "86400.000000", "1600000000", "20", "11", "15"}

func someRows(n int) []authz.Row {
	rows := make([]authz.Row, n)
	for i := range rows {
		rows[i] = authz.Row{Entry: authz.Entry{Key: authz.RevocationKey(authz.KindJTI, "i", string(rune('a'+i))), NotBefore: authz.Always, Expires: int64(i)}, XID: uint64(i + 1)}
	}
	return rows
}

func read(data []byte, cut func(i int) int) ([]authz.Row, []string, error) {
	var rows []authz.Row
	c := &changeReader{row: func(r authz.Row) { rows = append(rows, r) }, progress: func() {}}
	for i := 0; len(data) > 0; i++ {
		n := min(max(cut(i), 1), len(data))
		if _, err := c.Write(slices.Clone(data[:n])); err != nil {
			return rows, c.snapshot, err
		}
		data = data[n:]
	}
	return rows, c.snapshot, c.end()
}

// However the stream is cut, the same rows come out.
func TestCopyIsCutAnywhere(t *testing.T) {
	t.Parallel()
	want := someRows(20)
	data := copyOf(someSnapshot, want)
	for size := 1; size <= len(data); size += 1 + size/8 {
		rows, snap, err := read(data, func(int) int { return size })
		if err != nil || !slices.Equal(rows, want) || !slices.Equal(snap, someSnapshot) {
			t.Errorf("pieces of %d: %d rows, %v, %v", size, len(rows), snap, err)
		}
	}
	// An answer that ends early is no answer.
	for size := range len(data) {
		if _, _, err := read(data[:size], func(int) int { return size }); !errors.Is(err, errCopy) {
			t.Errorf("ended after %d of %d bytes: %v", size, len(data), err)
		}
	}
}

func TestSnapshotText(t *testing.T) {
	t.Parallel()
	s, err := parseSnapshot(someSnapshot)
	if err != nil || !s.Proves || s.Epoch != "7/00000001/1" || s.Xmax != 20 || s.RaisedFrom != 24*time.Hour || s.Raised != 1_600_000_000 || s.MaxTokenTTL != 7*24*time.Hour || !slices.Equal(s.Open, []uint64{11, 15}) || s.Clock.UnixMilli() != 1_700_000_000_500 {
		t.Errorf("%+v, %v", s, err)
	}
	change := func(i int, to string) []string {
		c := slices.Clone(someSnapshot)
		c[i] = to
		return c
	}
	for _, c := range [][]string{change(snapRecovering, "true"), change(snapFresh, "false"), change(snapFresh, ""), change(snapRecovering, "")} {
		if s, err := parseSnapshot(c); err == nil && s.Proves {
			t.Errorf("%v proves", c)
		}
	}
	for i := range someSnapshot {
		if i == snapNonce || i == snapSystem || i == snapTimeline || i == snapEpoch || i == snapRecovering || i == snapFresh {
			continue
		}
		for _, to := range []string{"", "x", "-1x"} {
			if s, err := parseSnapshot(change(i, to)); err == nil {
				t.Errorf("field %d as %q: %+v", i, to, s)
			}
		}
	}
	for n := range snapOpen {
		if _, err := parseSnapshot(someSnapshot[:n]); !errors.Is(err, ErrSchema) {
			t.Errorf("%d fields: %v", n, err)
		}
	}
}

// Whatever a server sends, reading it neither panics nor invents a proof, and
// how it was cut makes no difference.
func FuzzCopy(f *testing.F) {
	f.Add(copyOf(someSnapshot, someRows(3)), uint8(7))
	f.Add(copyOf(nil, nil), uint8(1))
	f.Add(copyOf([]string{strings.Repeat("x", 300)}, someRows(1)), uint8(255))
	f.Add([]byte(copySignature), uint8(3))
	f.Add(append(copyOf(someSnapshot, nil), 1), uint8(9))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		whole, snap, err := read(data, func(int) int { return len(data) })
		cut, snap2, err2 := read(data, func(int) int { return int(size) })
		if (err == nil) != (err2 == nil) {
			t.Fatalf("whole: %v, cut: %v", err, err2)
		}
		if err == nil && (!slices.Equal(whole, cut) || !slices.Equal(snap, snap2)) {
			t.Fatalf("whole: %v %v, cut: %v %v", whole, snap, cut, snap2)
		}
		if s, err := parseSnapshot(snap); err != nil && s.Proves {
			t.Fatal("an error proves")
		}
	})
}
