package sharedsignals

import "github.com/prometheus/client_golang/prometheus"

// PollMetrics are the metrics of all pollers. The transmitters in their labels are
// those of the configuration.
type PollMetrics struct {
	polls   *prometheus.CounterVec
	last    *prometheus.GaugeVec
	streams *prometheus.GaugeVec
}

// NewPollMetrics registers the metrics.
func NewPollMetrics(registry prometheus.Registerer) (*PollMetrics, error) {
	m := &PollMetrics{
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jwt_bouncer_event_polls_total", Help: "Polls of event streams (RFC 8936), by transmitter and result: answered, failed.",
		}, []string{"transmitter", "result"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "jwt_bouncer_event_poll_last_success_timestamp_seconds", Help: "Unix time of the last poll of an event stream that was answered, by transmitter; 0: none yet.",
		}, []string{"transmitter"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "jwt_bouncer_event_stream_enabled", Help: "1 unless the transmitter has paused or disabled the event stream, by transmitter.",
		}, []string{"transmitter"}),
	}
	for _, c := range []prometheus.Collector{m.polls, m.last, m.streams} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// pollMetrics are those of one poller.
type pollMetrics struct {
	answered, failed prometheus.Counter
	last, stream     prometheus.Gauge
}

// of returns the metrics of a transmitter. All series exist from the start.
func (m *PollMetrics) of(transmitter string) pollMetrics {
	p := pollMetrics{
		answered: m.polls.WithLabelValues(transmitter, "answered"), failed: m.polls.WithLabelValues(transmitter, "failed"),
		last: m.last.WithLabelValues(transmitter), stream: m.streams.WithLabelValues(transmitter),
	}
	p.enabled(true)
	return p
}

func (p pollMetrics) polled(err error) {
	if err != nil {
		p.failed.Inc()
		return
	}
	p.answered.Inc()
	p.last.SetToCurrentTime()
}

func (p pollMetrics) enabled(yes bool) {
	if yes {
		p.stream.Set(1)
	} else {
		p.stream.Set(0)
	}
}
