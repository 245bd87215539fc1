package envoy

import "jwtbouncer/authz"

// cachedAnswer is the encoded allow answer of a token for requests that differ
// in nothing the answer depends on. It hangs on the token, and so lives and
// dies with the token in the cache.
type cachedAnswer struct {
	identity *identity // answers of another configuration are not ours
	bytes    []byte
}

// answer returns the CheckResponse of an allow, from the token where it was
// made before. It is shared: nobody may change it.
func (id *identity) answer(token *authz.Token, cred authz.Credential, req *authz.Request) ([]byte, error) {
	if token == nil || id.personal(cred, req) {
		return id.allowed(token, cred, req)
	}
	if p := token.Encoded.Load(); p != nil {
		if a, ok := (*p).(*cachedAnswer); ok && a.identity == id {
			return a.bytes, nil
		}
	}
	b, err := id.allowed(token, cred, req)
	if err != nil {
		return nil, err
	}
	var kept any = &cachedAnswer{identity: id, bytes: b}
	token.Encoded.Store(&kept)
	return b, nil
}
