package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// maxHeader bounds a request's header, in bytes.
const maxHeader = 32 << 10

// NewServer returns an http.Server for h with every limit set: none of its
// timeouts is infinite.
func NewServer(h http.Handler, c Config, log *slog.Logger) *http.Server {
	read, write := orDefault(c.ReadTimeout, DefaultConfig().ReadTimeout), orDefault(c.WriteTimeout, DefaultConfig().WriteTimeout)
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: min(5*time.Second, read),
		ReadTimeout:       read,
		WriteTimeout:      read + write + time.Second, // counted from the end of the header
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Serve serves on l until ctx ends, then answers what is in flight within
// grace and returns. nil: everything was answered.
func Serve(ctx context.Context, s *http.Server, l net.Listener, grace time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := s.Shutdown(drain)
	if err != nil {
		err = errors.Join(err, s.Close())
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
