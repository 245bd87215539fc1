package wire

import (
	"encoding/json"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of google.protobuf.Struct and the messages in it.
const (
	structFields = 1
	entryKey     = 1
	entryValue   = 2
	listValues   = 1

	valueNull   = 1
	valueNumber = 2
	valueString = 3
	valueBool   = 4
	valueStruct = 5
	valueList   = 6
)

// Metadata is a google.protobuf.Struct under construction: the dynamic metadata of the filter.
// Like append, its methods return the extended metadata.
type Metadata []byte

// Set sets one field. value is JSON as a token's claims hold it: nil, bool, json.Number, string,
// []any or map[string]any.
func (m Metadata) Set(name string, value any) Metadata {
	entry := appendString(nil, entryKey, strings.ToValidUTF8(name, "\uFFFD"))
	return appendMessage(m, structFields, appendMessage(entry, entryValue, appendValue(nil, value)))
}

// SetAll sets a field for each member of values, sorted by name.
func (m Metadata) SetAll(values map[string]any) Metadata {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		m = m.Set(name, values[name])
	}
	return m
}

// appendValue appends a google.protobuf.Value. Its numbers are doubles; an integer that a
// double cannot represent is encoded as a string.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case bool:
		if v {
			return appendUint(b, valueBool, 1)
		}
		return appendUint(b, valueBool, 0)
	case json.Number:
		if f, ok := exactFloat(string(v)); ok {
			b = protowire.AppendTag(b, valueNumber, protowire.Fixed64Type)
			return protowire.AppendFixed64(b, math.Float64bits(f))
		}
		return appendBytes(b, valueString, string(v))
	case string:
		return appendBytes(b, valueString, strings.ToValidUTF8(v, "\uFFFD"))
	case map[string]any:
		return appendMessage(b, valueStruct, Metadata(nil).SetAll(v))
	case []any:
		var list []byte
		for _, e := range v {
			list = appendMessage(list, listValues, appendValue(nil, e))
		}
		return appendMessage(b, valueList, list)
	}
	return appendUint(b, valueNull, 0)
}

// exactFloat returns the double that s denotes. ok is false if s is an integer that no double
// represents, or out of range. A fraction may be rounded.
func exactFloat(s string) (f float64, ok bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) {
		return 0, false
	}
	if strings.ContainsAny(s, ".eE") {
		return f, true
	}
	i, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return 0, false
	}
	back, _ := big.NewFloat(f).Int(nil)
	return f, back.Cmp(i) == 0
}
