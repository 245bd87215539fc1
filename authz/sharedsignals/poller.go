package sharedsignals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

const (
	answerTime    = 10 * time.Second // for a response, beyond what a long poll may wait
	batchTime     = 30 * time.Second // for the events of one response
	firstBackoff  = time.Second
	longestPause  = time.Minute
	longestRetry  = 10 * time.Minute // that a transmitter can ask for
	statusRefresh = time.Minute      // of a stream that is paused or disabled
)

// Poller polls one event stream (RFC 8936). It acknowledges an event in the poll
// after the one that brought it, once its revocations are committed.
type Poller struct {
	cfg      StreamConfig
	t        *Transmitter
	receiver *Receiver
	log      *slog.Logger
	metrics  pollMetrics
	contact  authz.Contact

	endpoint  *url.URL  // nil: not known yet
	audiences []string  // of the stream's events
	checked   time.Time // when they were read
	report    report    // of what the last response brought
	failures  int       // in a row, for the backoff
	answered  bool      // the last poll was

	mu        sync.Mutex
	postponed int
	stream    StreamStatus
}

// report is what the next poll tells the transmitter.
type report struct {
	acks []string
	errs map[string]setError
}

func (r report) has(jti string) bool {
	_, refused := r.errs[jti]
	return refused || slices.Contains(r.acks, jti)
}

// setError is a member of setErrs (RFC 8936, section 2.6).
type setError struct {
	Err         string `json:"err"`
	Description string `json:"description"`
}

// pollRequest is the body of RFC 8936, section 2.2.
type pollRequest struct {
	MaxEvents         int                 `json:"maxEvents"`
	ReturnImmediately bool                `json:"returnImmediately"`
	Ack               []string            `json:"ack,omitzero"`
	SetErrs           map[string]setError `json:"setErrs,omitzero"`
}

// pollResponse is the body of RFC 8936, section 2.3.
type pollResponse struct {
	Sets          map[string]string `json:"sets"` // by jti; required
	MoreAvailable bool              `json:"moreAvailable"`
}

// PollerOptions are the parameters of NewPoller. All but Transport are required.
type PollerOptions struct {
	Receiver  *Receiver
	Metrics   *PollMetrics
	Logger    *slog.Logger
	Clock     authz.Clock
	Transport http.RoundTripper // nil: one of its own
}

// NewPoller returns a poller of the stream of c, which is valid. It sends nothing
// before Run.
func NewPoller(c StreamConfig, o PollerOptions) (*Poller, error) {
	c = c.withDefaults()
	t, err := NewTransmitter(c.TransmitterConfig, c.LongPoll+answerTime, o.Clock, o.Transport)
	if err != nil {
		return nil, fmt.Errorf("event_streams of %s: %w", c.Transmitter, err)
	}
	p := &Poller{cfg: c, t: t, receiver: o.Receiver, log: o.Logger, metrics: o.Metrics.of(c.Transmitter), contact: authz.Contact{Clock: o.Clock}}
	p.stream.Status = StatusEnabled // until the transmitter says otherwise
	return p, nil
}

// Transmitter returns the iss of the stream's events.
func (p *Poller) Transmitter() string { return p.cfg.Transmitter }

// Run polls until ctx ends.
func (p *Poller) Run(ctx context.Context) error {
	defer p.t.Close()
	for {
		if !pause(ctx, p.step(ctx)) {
			return ctx.Err()
		}
	}
}

// pause waits for d and reports whether ctx is still active.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// step polls once and returns how long to wait before the next poll.
func (p *Poller) step(ctx context.Context) time.Duration {
	begun := time.Now()
	probe := p.cfg.LongPoll > 0 && !p.answered
	progress, err := p.poll(ctx)
	if ctx.Err() != nil {
		return 0
	}
	p.answered = err == nil
	p.note(err)
	var status *StatusError
	switch {
	case errors.As(err, &status) && status.RetryAfter > 0:
		p.failures++
		return max(p.backoff(), min(status.RetryAfter, longestRetry))
	case err != nil, !progress && p.State().Postponed > 0:
		p.failures++
		return p.backoff()
	}
	if probe {
		return 0
	}
	p.failures = 0
	if progress {
		return 0 // the transmitter waits for the acknowledgement, and may have more
	}
	// Whatever was asked for, a transmitter may answer at once.
	return max(0, breaker.Jitter(p.cfg.Interval, 0.1)-time.Since(begun))
}

// backoff doubles with each failure in a row.
func (p *Poller) backoff() time.Duration {
	return breaker.Jitter(min(firstBackoff<<min(p.failures-1, 10), longestPause), 0.25)
}

// note records and counts the result of a poll. It logs changes only.
func (p *Poller) note(err error) {
	before := p.failed()
	p.contact.Record(err)
	p.metrics.polled(err)
	switch {
	case err != nil && before == nil:
		p.log.Warn("an event stream cannot be polled", "transmitter", p.cfg.Transmitter, "error", err)
	case err == nil && before != nil:
		p.log.Info("an event stream is polled again", "transmitter", p.cfg.Transmitter)
	}
}

func (p *Poller) failed() error {
	_, err := p.contact.Last()
	return err
}

// poll sends the report of the last response and processes the next one. progress:
// it brought an event that is neither postponed nor in that report.
func (p *Poller) poll(ctx context.Context) (progress bool, err error) {
	if err := p.locate(ctx); err != nil {
		return false, err
	}
	answer, err := p.send(ctx)
	if err != nil {
		return false, err
	}
	told := p.report
	p.report = p.process(ctx, answer.Sets)
	for _, jti := range p.report.acks {
		progress = progress || !told.has(jti)
	}
	for jti := range p.report.errs {
		progress = progress || !told.has(jti)
	}
	return progress, nil
}

// send sends one poll.
func (p *Poller) send(ctx context.Context) (pollResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.LongPoll+answerTime)
	defer cancel()
	// A poll that has to show whether polling works does not wait for an event.
	immediately := p.cfg.LongPoll == 0 || !p.answered
	body := pollRequest{MaxEvents: p.cfg.MaxEvents, ReturnImmediately: immediately, Ack: p.report.acks, SetErrs: p.report.errs}
	var header []string
	if len(p.report.errs) > 0 {
		header = []string{"Content-Language", "en"} // of the descriptions: RFC 8936, section 2.6
	}
	var answer pollResponse
	// A SET is at most as long as a token, and a transmitter may ignore maxEvents once.
	_, err := p.t.call(ctx, http.MethodPost, p.endpoint, body, &answer, (p.cfg.MaxEvents+1)*(authz.MaxTokenBytes+1<<10), header...)
	switch {
	case err != nil:
		p.refused(err)
		return pollResponse{}, err
	case answer.Sets == nil:
		return pollResponse{}, errors.New("the transmitter's response has no sets (RFC 8936, section 2.3)")
	}
	return answer, nil
}

// refused draws the consequences of a request that the transmitter calls wrong: the
// stream may have been created anew, and no longer know what is reported about its
// events. Events that it still has come again.
func (p *Poller) refused(err error) {
	var status *StatusError
	if !errors.As(err, &status) {
		return
	}
	switch status.Status {
	case http.StatusNotFound, http.StatusGone:
		p.endpoint, p.report = nil, report{}
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity:
		p.report = report{}
	}
}

// process has the events of one response processed, and returns what to report
// about them. Events that are postponed are not in it: they come again. Those that
// the response has beyond max_events do, too.
func (p *Poller) process(ctx context.Context, sets map[string]string) report {
	ctx, cancel := context.WithTimeout(ctx, batchTime)
	defer cancel()
	r := report{errs: map[string]setError{}}
	postponed, taken := 0, 0
	// In no order, so that events that must wait do not keep others from their turn.
	for jti, raw := range sets {
		if taken++; taken > p.cfg.MaxEvents || ctx.Err() != nil {
			break
		}
		switch result := p.receive(ctx, jti, raw); {
		case result.Outcome.Acknowledged():
			r.acks = append(r.acks, jti)
		case result.Outcome == Refused:
			r.errs[jti] = setError{result.Code, result.Description}
		default:
			postponed++
		}
	}
	slices.Sort(r.acks)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.postponed = postponed
	return r
}

// receive processes one event. An acknowledgement names the jti under which the
// transmitter listed the event, so it must be the event's own.
func (p *Poller) receive(ctx context.Context, jti, raw string) Result {
	if own, ok := readID(raw); ok && own != jti {
		return p.receiver.Refuse(CodeInvalidRequest, "its jti is not the one under which it was sent")
	}
	return p.receiver.ReceiveFor(ctx, raw, p.audiences)
}

// readID reads the jti of a compact JWT without verifying anything. It returns false
// for any other text.
func readID(raw string) (jti string, ok bool) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return "", false
	}
	payload, ok := authz.DecodeSegment(parts[1])
	var claims struct {
		ID string `json:"jti"`
	}
	return claims.ID, ok && json.Unmarshal(payload, &claims) == nil
}

// locate finds out what to poll, unless it is known. While the stream is paused or
// disabled, it asks for the status from time to time.
func (p *Poller) locate(ctx context.Context) error {
	if p.endpoint != nil && (p.State().Stream.Status == StatusEnabled || time.Since(p.checked) < statusRefresh) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*answerTime)
	defer cancel()
	l, err := p.cfg.Locate(ctx, p.t)
	if err != nil {
		return err
	}
	if l.Status.Status != "" {
		p.Updated(l.Status.ID, l.Status.Status)
	}
	p.endpoint, p.audiences, p.checked = l.Endpoint, l.Audiences, time.Now()
	return nil
}

// Updated sets the status of the stream, which an event or the status endpoint has
// told.
func (p *Poller) Updated(stream, status string) {
	p.mu.Lock()
	p.stream = StreamStatus{ID: stream, Status: status}
	p.mu.Unlock()
	p.metrics.enabled(status == StatusEnabled)
}

// PollState is what a poller knows about its stream.
type PollState struct {
	Age       time.Duration // since the last poll that was answered; negative: never
	Err       error         // why the last one was not; nil: it was
	Postponed int           // events of the last response that could not be processed yet
	Stream    StreamStatus
}

// State returns the state at this moment.
func (p *Poller) State() PollState {
	p.mu.Lock()
	defer p.mu.Unlock()
	age, err := p.contact.Last()
	return PollState{Age: age, Err: err, Postponed: p.postponed, Stream: p.stream}
}
