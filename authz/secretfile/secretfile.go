// Package secretfile reads files that hold secrets: passwords, client secrets,
// bearer tokens. One rule applies to all of them: a line is a secret, whole, with
// its spaces and its "#".
//
// It is apart from authz, which reads no files, and from the adapters, which each
// have secrets and must not import one another.
package secretfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
)

// maxBytes bounds a file.
const maxBytes = 64 << 10

// ErrPlaceholder is the error of a secret that an example has published.
var ErrPlaceholder = errors.New("begins with CHANGE-ME, so it is a placeholder that anyone can read in an example; put a secret of your own in its place")

// CheckPlaceholder returns ErrPlaceholder if secret begins with CHANGE-ME, in upper
// or lower case. For secrets that Read and ReadLines do not read, such as the
// password in a URL.
func CheckPlaceholder(secret string) error {
	const mark = "CHANGE-ME"
	if len(secret) >= len(mark) && strings.EqualFold(secret[:len(mark)], mark) {
		return ErrPlaceholder
	}
	return nil
}

// Read returns the secret in a file of one line. Errors name the file and contain
// nothing of the secret; wrapping them with the configuration's key is up to the
// caller.
func Read(path string) (string, error) {
	lines, err := ReadLines(path)
	if err == nil && len(lines) > 1 {
		err = fmt.Errorf("%s has more than one line; a secret is one line, and only the line break at its end may be left out", path)
	}
	if err != nil {
		return "", err
	}
	return lines[0], nil
}

// ReadLines returns the secrets in a file that holds one or more, one per line. It
// is an error if a line is empty (spaces aside), holds a control character, or is a
// placeholder (see CheckPlaceholder).
func ReadLines(path string) ([]string, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err // names the path
	}
	lines, err := split(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return lines, nil
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && len(text) > maxBytes {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxBytes)
	}
	return string(text), err
}

// split divides the text of a file into secrets. One line break at the end belongs
// to the file, and so does a byte-order mark: editors add both unseen.
func split(text string) ([]string, error) {
	text = strings.TrimPrefix(text, "\ufeff")
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
		switch {
		case strings.TrimSpace(lines[i]) == "":
			return nil, fmt.Errorf("line %d is empty", i+1)
		case strings.ContainsFunc(lines[i], unicode.IsControl):
			return nil, fmt.Errorf("line %d holds a control character, such as a tab; is the file plain text in UTF-8?", i+1)
		}
		if err := CheckPlaceholder(lines[i]); err != nil {
			return nil, fmt.Errorf("line %d %w", i+1, err)
		}
	}
	return lines, nil
}
