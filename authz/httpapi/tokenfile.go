package httpapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// minSecret is the minimum length of a secret in bytes: 16 random characters
// cannot be guessed over a network.
const minSecret = 16

// maxSecretFile bounds the size of a secret file in bytes.
const maxSecretFile = 64 << 10

// TokenFile is a file of secrets, one per line. It is read again whenever it
// changes, so that secrets can be rotated without a restart. A file that has
// become unreadable or invalid admits no one.
type TokenFile struct {
	path string

	mu     sync.Mutex
	read   os.FileInfo // of the file when it was read; nil: it was not
	tokens []namedDigest
	err    error
}

// namedDigest holds a secret's digest, never the secret: all digests have the
// same length, so comparing them reveals nothing about the secret's.
type namedDigest struct {
	name   string
	digest [sha256.Size]byte
}

// CheckTokenFile reads a file that api.token_file or a client's secret_file
// names, and returns what is wrong with it.
func CheckTokenFile(path string) error {
	_, err := OpenTokenFile(path)
	return err
}

// OpenTokenFile reads a file of secrets. An invalid file is an error.
func OpenTokenFile(path string) (*TokenFile, error) {
	f := &TokenFile{path: path}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reload()
	return f, f.err
}

// Match returns the name of the secret that equals presented. An error means
// that the file cannot be used, and that the caller may be entitled.
func (f *TokenFile) Match(presented string) (name string, ok bool, err error) {
	f.mu.Lock()
	f.reload()
	tokens, err := f.tokens, f.err
	f.mu.Unlock()
	if err != nil {
		return "", false, err
	}
	digest := sha256.Sum256([]byte(presented))
	for i := range tokens { // compare all: the time must not reveal which one matched
		if subtle.ConstantTimeCompare(digest[:], tokens[i].digest[:]) == 1 {
			name, ok = tokens[i].name, true
		}
	}
	return name, ok, nil
}

// Holds reports whether a secret with this SHA-256 digest is still in the file.
func (f *TokenFile) Holds(digest [sha256.Size]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reload()
	return slices.ContainsFunc(f.tokens, func(t namedDigest) bool { return t.digest == digest })
}

// reload reads the file unless it is unchanged.
func (f *TokenFile) reload() {
	info, err := os.Stat(f.path)
	if old := f.read; err == nil && old != nil && os.SameFile(old, info) && old.ModTime().Equal(info.ModTime()) && old.Size() == info.Size() {
		return
	}
	f.read, f.tokens = info, nil
	var text []byte
	switch {
	case err != nil:
		f.read = nil
	case info.Size() > maxSecretFile:
		err = fmt.Errorf("%s is larger than %d bytes", f.path, maxSecretFile)
	default:
		if text, err = os.ReadFile(f.path); err == nil {
			if f.tokens, err = parseTokens(text); err != nil {
				err = fmt.Errorf("%s: %w", f.path, err)
			}
		}
	}
	f.err = err
}

// parseTokens reads lines of TOKEN or NAME TOKEN. It skips empty lines and lines
// that begin with #. Errors never contain a secret.
func parseTokens(text []byte) ([]namedDigest, error) {
	var all []namedDigest
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxSecretFile+1)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) > 2 {
			return nil, fmt.Errorf("line %d: must be TOKEN or NAME TOKEN", n)
		}
		name, secret := "token-"+strconv.Itoa(len(all)+1), fields[len(fields)-1]
		if len(fields) == 2 {
			name = fields[0]
		}
		if len(secret) < minSecret {
			return nil, fmt.Errorf("line %d: the token has %d characters; at least %d are needed", n, len(secret), minSecret)
		}
		if strings.ContainsFunc(name+secret, func(r rune) bool { return r < '!' || r > '~' }) {
			return nil, fmt.Errorf("line %d: only visible ASCII characters are allowed", n)
		}
		all = append(all, namedDigest{name: name, digest: sha256.Sum256([]byte(secret))})
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("holds no token")
	}
	return all, nil
}
