package rediscache

import (
	"encoding/binary"

	"jwtbouncer/authz"
)

// Channel is the Pub/Sub channel. A message on it names revocations that were
// committed before it was sent. It proves nothing: any number of messages may be
// lost, and anyone with access to Redis can send one.
const Channel = "jwt-bouncer:revocations"

// A message is binary, and its integers are big-endian:
//
//	offset  bytes
//	0       1      version: 1
//	1       1      bit 0: revocations were published that no message names; others: 0
//	2       2      number n of entries, at most maxNamed
//	4       32 n   entries: key (16), not_before (8), expiry (8)
//
// Times are Unix seconds as in authz.Entry, not_before 2^63-1 is authz.Always.
// The format is described in docs/redis.md, and a change of it takes another
// version. Sidecars sync with the store when they get a version they do not know,
// so versions can be mixed.
const (
	messageVersion = 1
	messageMore    = 1 // bit of the second byte
	messageHeader  = 4
	messageEntry   = 32
	maxNamed       = 500 // entries in a message: 16,004 bytes
)

// encodeMessage returns the message that names the entries, at most maxNamed.
// more: there are others, which no message names.
func encodeMessage(entries []pendingEntry, more bool) string {
	b := make([]byte, messageHeader, messageHeader+len(entries)*messageEntry)
	b[0] = messageVersion
	if more {
		b[1] = messageMore
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(entries))) //nolint:gosec // at most maxNamed
	for _, e := range entries {
		b = append(b, e.entry.Key[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(e.entry.NotBefore)) //nolint:gosec // the same bits
		b = binary.BigEndian.AppendUint64(b, uint64(e.entry.Expires))   //nolint:gosec // the same bits
	}
	return string(b)
}

// decodeMessage returns the entries that a message names. complete: there are no
// others. It is false for a message that was cut, is of another version, or
// cannot be read for another reason, and such a message has no entries.
func decodeMessage(m string) (entries []authz.Entry, complete bool) {
	if len(m) < messageHeader || m[0] != messageVersion || m[1]&^messageMore != 0 {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16([]byte(m[2:messageHeader])))
	if n > maxNamed || len(m) != messageHeader+n*messageEntry {
		return nil, false
	}
	entries = make([]authz.Entry, n)
	for i := range entries {
		b := []byte(m[messageHeader+i*messageEntry:][:messageEntry])
		entries[i] = authz.Entry{
			Key:       authz.Key(b[:16]),
			NotBefore: int64(binary.BigEndian.Uint64(b[16:])), //nolint:gosec // the same bits
			Expires:   int64(binary.BigEndian.Uint64(b[24:])), //nolint:gosec // the same bits
		}
	}
	return entries, m[1]&messageMore == 0
}
