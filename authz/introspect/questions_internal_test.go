package introspect

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// One address takes half of the slots, and what is given back leaves nothing.
func TestSlotsPerAddress(t *testing.T) {
	t.Parallel()
	s := questions{limit: 64, asked: map[cacheKey]*question{}, byClient: map[netip.Addr]int{}}
	type held struct {
		key  cacheKey
		q    *question
		slot slot
	}
	var all []held
	take := func(want slot) (n int) {
		for {
			key := cacheKey{byte(len(all)), byte(len(all) >> 8)}
			q, fresh := s.join(key, want)
			if q == nil {
				return n
			}
			require.True(t, fresh)
			all = append(all, held{key, q, want})
			n++
		}
	}
	require.Equal(t, 33, take(slot{client: clientOf("203.0.113.7")}))
	require.Equal(t, 16, take(slot{client: clientOf("203.0.113.8")}))
	require.Equal(t, 15, take(slot{}), "no address, no bound but the limit")
	require.Zero(t, take(slot{client: clientOf("203.0.113.9")}))
	require.Equal(t, 32, take(slot{kind: slotRenewal}), "half, because no request waits for them")
	require.Equal(t, 32, take(slot{kind: slotKnown}))
	q, fresh := s.join(all[0].key, slot{})
	require.False(t, fresh)
	require.Same(t, all[0].q, q, "a question is joined whether a slot is free or not")
	for _, h := range all {
		s.end(h.key, h.q, h.slot)
		<-h.q.done
	}
	require.Empty(t, s.asked)
	require.Empty(t, s.byClient)
	require.Zero(t, s.known+s.unknown)
}

func TestClientOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"203.0.113.7": "203.0.113.7", "::ffff:203.0.113.7": "203.0.113.7", "2001:db8:0:1:2::3": "2001:db8:0:1::", "fe80::1%eth0": "fe80::", "": "invalid IP", "/run/x.sock": "invalid IP",
	} {
		require.Equal(t, want, clientOf(address).String(), address)
	}
}
