package sidecar

import (
	"context"
	"crypto/sha256"
	"os"
	"time"
)

// fingerprint identifies a text. The zero value means that there is none.
type fingerprint [sha256.Size]byte

// watchFile runs until ctx ends. It calls changed whenever the content of file
// changes, and once for each wake (SIGHUP). last is the content that the settings
// were read from, so that a change during startup counts. It polls the content
// instead of listening for file events, because a mounted ConfigMap changes by
// swapping symbolic links two levels up. A missing file counts as unchanged.
func watchFile(ctx context.Context, file string, last fingerprint, every time.Duration, wake <-chan os.Signal, changed func()) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
			last = fingerprintOfFile(file)
			changed()
		case <-ticker.C:
			if now := fingerprintOfFile(file); now != (fingerprint{}) && now != last {
				last = now
				changed()
			}
		}
	}
}

func fingerprintOfFile(file string) fingerprint {
	text, err := os.ReadFile(file)
	if err != nil {
		return fingerprint{}
	}
	return sha256.Sum256(text)
}
