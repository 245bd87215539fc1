package sidecar

import (
	"context"
	"crypto/sha256"
	"os"
	"time"
)

// fingerprint tells one text from another; the zero value is that of none.
type fingerprint [sha256.Size]byte

func fingerprintOf(text []byte) fingerprint { return sha256.Sum256(text) }

// watchFile calls changed whenever the content of file differs from what was
// last seen, and once for each wake (SIGHUP). last is what was read when the
// settings were: a change since then, while everything was being opened, counts.
// It polls the content rather than listening for file events: a mounted
// ConfigMap changes by swapping symbolic links two levels up, which is easy to
// miss. A file that is away for a moment counts as unchanged.
func watchFile(ctx context.Context, file string, last fingerprint, every time.Duration, wake <-chan os.Signal, changed func()) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
			last = look(file)
			changed()
		case <-ticker.C:
			if now := look(file); now != (fingerprint{}) && now != last {
				last = now
				changed()
			}
		}
	}
}

func look(file string) fingerprint {
	text, err := os.ReadFile(file)
	if err != nil {
		return fingerprint{}
	}
	return fingerprintOf(text)
}
