package policy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"jwtbouncer/authz"
)

// maxCertificate is the maximum length of a URL-encoded certificate in bytes.
const maxCertificate = 64 << 10

// checkCertificate compares the thumbprint of the client certificate with want,
// which is base64url (RFC 8705, section 3).
func (b *Binding) checkCertificate(req *authz.Request, want string) error {
	sum, err := b.certificateThumbprint(req)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(base64url(sum[:])), []byte(want)) != 1 {
		return errors.New("the token is bound to another client certificate")
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
	sum, err = thumbprint(req.Source.Certificate, req.Source.CertificateSHA256)
	if errors.Is(err, errNoCertificate) {
		err = errors.New("the connection has no client certificate (is include_peer_certificate set in Envoy?)")
	}
	return sum, err
}

var errNoCertificate = errors.New("no client certificate")

// thumbprint returns the SHA-256 of a certificate that is given as URL-encoded PEM,
// as the hash itself in hex, or as both, which must then agree. Either may be empty.
func thumbprint(cert, hash string) (sum [sha256.Size]byte, err error) {
	if cert == "" && hash == "" {
		return sum, errNoCertificate
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
	switch {
	case err != nil || len(b) != sha256.Size:
		return sum, errors.New("the hash of the client certificate is not a SHA-256 in hex")
	case cert != "" && string(b) != string(sum[:]):
		return sum, errors.New("the client certificate and its hash do not match")
	}
	return [sha256.Size]byte(b), nil
}

// pemThumbprint returns the SHA-256 of the first certificate (DER) in URL-encoded
// PEM.
func pemThumbprint(encoded string) (sum [sha256.Size]byte, err error) {
	if len(encoded) > maxCertificate {
		return sum, errors.New("the client certificate is too long")
	}
	text, err := url.PathUnescape(encoded) // unlike QueryUnescape, it keeps the "+" of base64
	if err != nil {
		return sum, errors.New("the client certificate is not URL-encoded")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(block.Bytes) == 0 {
		return sum, errors.New("the client certificate is not PEM")
	}
	return sha256.Sum256(block.Bytes), nil
}

// forwardedThumbprint returns the thumbprint in Envoy's x-forwarded-client-cert.
// With several elements it is unknown which proxy spoke for the client.
func forwardedThumbprint(v string) (sum [sha256.Size]byte, err error) {
	hash, cert, ok := splitForwarded(v)
	if !ok || hash == "" && cert == "" {
		return sum, errors.New("x-forwarded-client-cert must contain exactly one certificate")
	}
	if sum, err = thumbprint(cert, hash); err != nil {
		return sum, fmt.Errorf("x-forwarded-client-cert: %w", err)
	}
	return sum, nil
}

// splitForwarded parses a header with one element: key=value pairs separated by
// semicolons, values optionally quoted. Elements are separated by commas.
func splitForwarded(v string) (hash, cert string, ok bool) {
	if len(v) > maxCertificate {
		return "", "", false
	}
	for v != "" {
		key, rest, found := strings.Cut(v, "=")
		if !found || !httpguts.ValidHeaderFieldName(key) {
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
				return "", "", false // a second element, or a trailing semicolon
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
