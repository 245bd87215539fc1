package authz

import "encoding/json"

// StatusRef is a token's place in a list that its issuer publishes: the
// "status_list" of its "status" claim (OAuth Token Status List,
// draft-ietf-oauth-status-list, section 6).
type StatusRef struct {
	URI   string // empty: the claim is malformed, and nothing can be proven
	Index uint64
}

func readStatusRef(claims map[string]any) *StatusRef {
	v, present := claims["status"]
	if !present {
		return nil
	}
	status, ok := v.(map[string]any)
	if !ok {
		return &StatusRef{}
	}
	if v, present = status["status_list"]; !present {
		return nil // another mechanism, which is not ours to judge
	}
	list, ok := v.(map[string]any)
	if !ok {
		return &StatusRef{}
	}
	uri, _ := list["uri"].(string)
	n, _ := list["idx"].(json.Number)
	idx, err := n.Int64()
	if err != nil || idx < 0 || len(uri) > 2048 {
		return &StatusRef{}
	}
	return &StatusRef{URI: uri, Index: uint64(idx)}
}
