package policy

import (
	"encoding/json"
	"errors"
	"math/big"
	"reflect"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// claimAdapter turns claims into CEL values. Numbers keep their value: CEL's own
// adapter makes a double of an integer beyond 64 bits, so that different numbers are
// equal.
type claimAdapter struct {
	types.Adapter
	nested bool // for the elements of a list or map
}

var _ types.Adapter = claimAdapter{}

// NativeToValue implements types.Adapter.
func (a claimAdapter) NativeToValue(value any) ref.Val {
	elements := claimAdapter{a.Adapter, true}
	switch v := value.(type) {
	case json.Number:
		n := exactNumber(v)
		if n != nil {
			return n
		}
		if a.nested { // lists and maps that contain an error would be equal to any other
			return hugeNumber(v)
		}
		return types.WrapErr(errHuge)
	case []any:
		return types.NewDynamicList(elements, v)
	case map[string]any:
		return types.NewStringInterfaceMap(elements, v)
	}
	return a.Adapter.NativeToValue(value)
}

const errHuge = unreadable("a number does not fit 64 bits")

// exactNumber returns n as an int, a uint or, below 2^53 and with a fraction or
// exponent, a double; nil if 64 bits cannot hold it.
func exactNumber(n json.Number) ref.Val {
	text := n.String()
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return types.Int(i)
	}
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return types.Uint(u)
	}
	const exact = 1 << 53 // from here on, doubles skip integers
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil
	}
	if f > -exact && f < exact {
		return types.Double(f)
	}
	r, ok := new(big.Rat).SetString(text)
	switch {
	case !ok || !r.IsInt():
		return nil
	case r.Num().IsInt64():
		return types.Int(r.Num().Int64())
	case r.Num().IsUint64():
		return types.Uint(r.Num().Uint64())
	}
	return nil
}

// hugeNumber is a number in a list or map that does not fit 64 bits. It is equal
// only to itself, and using it otherwise is an error.
type hugeNumber string

var hugeType = types.NewOpaqueType("number")

// ConvertToNative implements ref.Val.
func (hugeNumber) ConvertToNative(reflect.Type) (any, error) { return nil, errors.New(string(errHuge)) }

// ConvertToType implements ref.Val.
func (hugeNumber) ConvertToType(ref.Type) ref.Val { return types.WrapErr(errHuge) }

// Equal implements ref.Val.
func (h hugeNumber) Equal(other ref.Val) ref.Val { return types.Bool(other == ref.Val(h)) }

// Type implements ref.Val.
func (hugeNumber) Type() ref.Type { return hugeType }

// Value implements ref.Val.
func (h hugeNumber) Value() any { return string(h) }
