package httpapi

import (
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

	"jwtbouncer/authz/secretfile"
)

// minSecret is the minimum length of a secret in bytes: 16 random characters
// cannot be guessed over a network.
const minSecret = 16

// maxSecretFile bounds the size of a secret file in bytes.
const maxSecretFile = 64 << 10

// TokenFile is a file of API tokens, or of one client's secrets. It is read again
// whenever it changes, so that they can be rotated without a restart. A file that
// has become unreadable or invalid admits no one.
type TokenFile struct {
	path  string
	parse func(path string) ([]namedDigest, error)

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

// CheckTokenFile reads the file that api.token_file names, and returns what is
// wrong with it.
func CheckTokenFile(path string) error {
	_, err := OpenTokenFile(path)
	return err
}

// CheckSecretFile reads the file that a client's secret_file names, and returns
// what is wrong with it.
func CheckSecretFile(path string) error {
	_, err := OpenSecretFile(path)
	return err
}

// OpenTokenFile reads a file of API tokens: lines of TOKEN or NAME TOKEN, empty
// lines, and comments, which begin with #. An invalid file is an error.
func OpenTokenFile(path string) (*TokenFile, error) { return openTokens(path, readTokens) }

// OpenSecretFile reads a file of one client's secrets: each line is one, whole (see
// secretfile). An invalid file is an error.
func OpenSecretFile(path string) (*TokenFile, error) { return openTokens(path, readSecrets) }

func openTokens(path string, parse func(string) ([]namedDigest, error)) (*TokenFile, error) {
	f := &TokenFile{path: path, parse: parse}
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
	if err != nil {
		f.read = nil
	} else {
		f.tokens, err = f.parse(f.path)
	}
	f.err = err
}

// readSecrets reads lines that are secrets as RFC 6749 has them (appendix A.2).
func readSecrets(path string) ([]namedDigest, error) {
	lines, err := secretfile.ReadLines(path)
	if err != nil {
		return nil, err
	}
	all := make([]namedDigest, len(lines))
	for i, secret := range lines {
		if len(secret) < minSecret {
			return nil, fmt.Errorf("%s: line %d: the secret has %d characters; at least %d are needed", path, i+1, len(secret), minSecret)
		}
		if strings.ContainsFunc(secret, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, fmt.Errorf("%s: line %d: only visible ASCII characters and spaces are allowed (RFC 6749, appendix A.2)", path, i+1)
		}
		all[i] = namedDigest{name: "secret-" + strconv.Itoa(i+1), digest: sha256.Sum256([]byte(secret))}
	}
	return all, nil
}

// readTokens reads lines of TOKEN or NAME TOKEN.
func readTokens(path string) ([]namedDigest, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxSecretFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxSecretFile)
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all, err := parseTokens(string(bytes.TrimPrefix(text, []byte("\ufeff"))))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return all, nil
}

// parseTokens skips empty lines and lines that begin with #. Errors never contain
// a secret.
func parseTokens(text string) ([]namedDigest, error) {
	var all []namedDigest
	n := 0
	for line := range strings.Lines(text) {
		n++
		fields := strings.Fields(line)
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
		if err := secretfile.CheckPlaceholder(secret); err != nil {
			return nil, fmt.Errorf("line %d: the token %w", n, err)
		}
		if len(secret) < minSecret {
			return nil, fmt.Errorf("line %d: the token has %d characters; at least %d are needed", n, len(secret), minSecret)
		}
		if strings.ContainsFunc(name+secret, func(r rune) bool { return r < '!' || r > '~' }) {
			return nil, fmt.Errorf("line %d: only visible ASCII characters are allowed", n)
		}
		all = append(all, namedDigest{name: name, digest: sha256.Sum256([]byte(secret))})
	}
	if len(all) == 0 {
		return nil, errors.New("holds no token")
	}
	return all, nil
}
