package sidecar

import (
	"slices"
	"strings"
)

// File is a file that is named in the configuration.
type File struct {
	Key         string // of the configuration: redis.password_file
	Path        string
	Secret      bool // nobody else may read it
	Certificate bool // of this sidecar or of its clients, so that it expires
	Err         error
}

// Files reads every file that is named in the configuration. Err is what
// CheckFiles would report.
func (s *Settings) Files() []File {
	var out []File
	for _, f := range s.files() {
		if f.path == "" {
			continue
		}
		name := f.key[strings.LastIndexByte(f.key, '.')+1:]
		out = append(out, File{
			Key: f.key, Path: f.path, Err: f.check(f.path),
			Secret:      strings.Contains(name, "password") || strings.Contains(name, "secret") || strings.Contains(name, "token") || slices.Contains([]string{"key", "key_file"}, name),
			Certificate: name == "certificate" || name == "cert_file",
		})
	}
	return out
}
