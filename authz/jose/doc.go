// Package jose reads compact JWS tokens, JSON objects, JWKs and key sets, and
// verifies signatures (RFC 7515, 7517, 7518, 8037). Its parser is strict: it
// accepts only text that every correct reader understands the same way. It
// never fetches anything and never decides about a request.
package jose
