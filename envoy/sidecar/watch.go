package sidecar

import (
	"context"
	"crypto/sha256"
	"os"
	"time"
)

// watchFile calls changed whenever the content of file differs from what was
// last seen, and once for each wake (SIGHUP). It polls the content rather than
// listening for file events: a mounted ConfigMap changes by swapping symbolic
// links two levels up, which is easy to miss. A file that is away for a moment
// counts as unchanged.
func watchFile(ctx context.Context, file string, every time.Duration, wake <-chan os.Signal, changed func()) {
	last := fingerprint(file)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
			last = fingerprint(file)
			changed()
		case <-ticker.C:
			if now := fingerprint(file); now != ([32]byte{}) && now != last {
				last = now
				changed()
			}
		}
	}
}

func fingerprint(file string) [32]byte {
	text, err := os.ReadFile(file)
	if err != nil {
		return [32]byte{}
	}
	return sha256.Sum256(text)
}
