package policy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/url"
	"strings"

	"jwtbouncer/authz"
)

// maxCertificate bounds the URL-encoded PEM text that is looked at, in bytes.
const maxCertificate = 64 << 10

// checkCertificate compares the client certificate's thumbprint with want
// (RFC 8705, section 3).
func (b *Binding) checkCertificate(req *authz.Request, want string) error {
	sum, err := b.certificateThumbprint(req)
	if err != nil {
		return err
	}
	got := base64url(sum[:])
	if subtle.ConstantTimeCompare([]byte(got), []byte(want)) != 1 {
		return errors.New("the client certificate is not the one the token is bound to")
	}
	return nil
}

func (b *Binding) certificateThumbprint(req *authz.Request) (sum [sha256.Size]byte, err error) {
	if b.trustForwarded {
		switch v, n := req.Header("x-forwarded-client-cert"); {
		case n == 1:
			return forwardedThumbprint(v)
		case n > 1:
			return sum, errors.New("more than one x-forwarded-client-cert header")
		}
	}
	if req.Source.Certificate == "" {
		return sum, errors.New("the connection has no client certificate (is include_peer_certificate set in Envoy?)")
	}
	return pemThumbprint(req.Source.Certificate)
}

// pemThumbprint hashes the DER of the first certificate in URL-encoded PEM.
func pemThumbprint(encoded string) (sum [sha256.Size]byte, err error) {
	if len(encoded) > maxCertificate {
		return sum, errors.New("the client certificate is too long")
	}
	text, err := url.PathUnescape(encoded) // "+" stands for itself in PEM
	if err != nil {
		return sum, errors.New("the client certificate is not URL-encoded")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(block.Bytes) == 0 {
		return sum, errors.New("the client certificate is not PEM")
	}
	return sha256.Sum256(block.Bytes), nil
}

// forwardedThumbprint reads Envoy's x-forwarded-client-cert. With more than
// one element it cannot be known which proxy spoke for the client.
func forwardedThumbprint(v string) (sum [sha256.Size]byte, err error) {
	hash, cert, ok := splitForwarded(v)
	if !ok || hash == "" && cert == "" {
		return sum, errors.New("x-forwarded-client-cert does not hold exactly one certificate")
	}
	if cert != "" {
		if sum, err = pemThumbprint(cert); err != nil {
			return sum, err
		}
	}
	if hash == "" {
		return sum, nil
	}
	b, err := hex.DecodeString(hash)
	if err != nil || len(b) != sha256.Size {
		return sum, errors.New("x-forwarded-client-cert has a malformed Hash")
	}
	if cert != "" && string(b) != string(sum[:]) {
		return sum, errors.New("x-forwarded-client-cert has a Hash that is not its Cert's")
	}
	return [sha256.Size]byte(b), nil
}

// splitForwarded takes the one element apart: key=value pairs between
// semicolons, values optionally quoted, a comma between elements.
func splitForwarded(v string) (hash, cert string, ok bool) {
	if len(v) > maxCertificate {
		return "", "", false
	}
	for v != "" {
		key, rest, found := strings.Cut(v, "=")
		if !found || !isToken(key) {
			return "", "", false
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			end := 1
			for end < len(rest) && rest[end] != '"' {
				if rest[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(rest) {
				return "", "", false
			}
			value, v = rest[1:end], rest[end+1:]
		} else {
			end := strings.IndexAny(rest, ";,\"")
			if end < 0 {
				end = len(rest)
			}
			value, v = rest[:end], rest[end:]
		}
		if v != "" {
			if v[0] != ';' || len(v) == 1 {
				return "", "", false // a second element, or nothing behind the semicolon
			}
			v = v[1:]
		}
		into := map[string]*string{"hash": &hash, "cert": &cert}[strings.ToLower(key)]
		if into == nil {
			continue
		}
		if *into != "" || value == "" {
			return "", "", false
		}
		*into = value
	}
	return hash, cert, true
}
