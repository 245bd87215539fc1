package store

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
		if assert.NoErrorf(t, err, "pieces of %d: %d rows, %v", size, len(rows), snap) {
			if assert.Truef(t, slices.Equal(rows, want), "pieces of %d: %d rows, %v, %v", size, len(rows), snap, err) {
				assert.Truef(t, slices.Equal(snap, someSnapshot), "pieces of %d: %d rows, %v, %v", size, len(rows), snap, err)
			}
		}
	}
	// An answer that ends early is no answer.
	for size := range len(data) {
		_, _, err := read(data[:size], func(int) int { return size })
		assert.ErrorIsf(t, err, errCopy, "ended after %d of %d bytes", size, len(data))
	}
}

func TestSnapshotText(t *testing.T) {
	t.Parallel()
	s, err := parseSnapshot(someSnapshot)
	if assert.NoErrorf(t, err, "%+v", s) {
		if assert.Truef(t, s.Proves, "%+v, %v", s, err) {
			if assert.Equalf(t, "7/00000001/1", s.Epoch, "%+v, %v", s, err) {
				if assert.Equalf(t, uint64(20), s.Xmax, "%+v, %v", s, err) {
					if assert.Equalf(t, 24*time.Hour, s.RaisedFrom, "%+v, %v", s, err) {
						if assert.Equalf(t, int64(1_600_000_000), s.Raised, "%+v, %v", s, err) {
							if assert.Equalf(t, 7*24*time.Hour, s.MaxTokenTTL, "%+v, %v", s, err) {
								if assert.Equalf(t, []uint64{11, 15}, s.Open, "%+v, %v", s, err) {
									assert.Equalf(t, int64(1_700_000_000_500), s.Clock.UnixMilli(), "%+v, %v", s, err)
								}
							}
						}
					}
				}
			}
		}
	}
	change := func(i int, to string) []string {
		c := slices.Clone(someSnapshot)
		c[i] = to
		return c
	}
	for _, c := range [][]string{change(snapFollows, "true"), change(snapFresh, "false"), change(snapFresh, ""), change(snapFollows, "")} {
		s, err := parseSnapshot(c)
		if err == nil {
			assert.Falsef(t, s.Proves, "%v proves", c)
		}
	}
	for i := range someSnapshot {
		if i == snapNonce || i == snapSystem || i == snapTimeline || i == snapEpoch || i == snapFollows || i == snapFresh {
			continue
		}
		for _, to := range []string{"", "x", "-1x"} {
			s, err := parseSnapshot(change(i, to))
			assert.Errorf(t, err, "field %d as %q: %+v", i, to, s)
		}
	}
	for n := range snapOpen {
		_, err := parseSnapshot(someSnapshot[:n])
		assert.ErrorIsf(t, err, ErrSchema, "%d fields", n)
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
		require.Equalf(t, err2 == nil, err == nil, "whole: %v, cut: %v", err, err2)
		if err == nil {
			require.Falsef(t, !slices.Equal(whole, cut) || !slices.Equal(snap, snap2), "whole: %v %v, cut: %v %v", whole, snap, cut, snap2)
		}
		s, err := parseSnapshot(snap)
		if err != nil {
			require.False(t, s.Proves, "an error proves")
		}
	})
}
