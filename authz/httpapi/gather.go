package httpapi

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"jwtbouncer/authz"
)

// gatherEvery is the longest time for which gathered metrics are served again.
// Gathering costs much more than any other response, and /metrics needs no token.
const gatherEvery = time.Second

// sharedGatherer gathers at most once in gatherEvery. Callers that come meanwhile
// share the result, which they must not change.
type sharedGatherer struct {
	gatherer prometheus.Gatherer
	clock    authz.Clock

	mu       sync.Mutex
	gathered bool
	at       time.Duration // Clock.Boot before the last gathering
	families []*dto.MetricFamily
}

// Gather implements prometheus.Gatherer.
func (s *sharedGatherer) Gather() ([]*dto.MetricFamily, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Boot()
	if s.gathered && now-s.at < gatherEvery {
		return s.families, nil
	}
	families, err := s.gatherer.Gather()
	s.gathered, s.at, s.families = err == nil, now, families
	return families, err
}
