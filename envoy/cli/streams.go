package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/sharedsignals"
)

type streamsCmd struct {
	List          streamsListCmd    `cmd:"" default:"withargs" help:"List the event streams that this receiver has at the transmitter."`
	Create        streamsCreateCmd  `cmd:"" help:"Create an event stream: polled, or pushed to a URL."`
	Update        streamsUpdateCmd  `cmd:"" help:"Change what a stream delivers, and how."`
	Status        streamsStatusCmd  `cmd:"" help:"Print or set whether a stream is enabled, paused or disabled."`
	Verify        streamsVerifyCmd  `cmd:"" help:"Have a verification event sent, and wait until a sidecar has received it."`
	AddSubject    streamsSubjectCmd `cmd:"" help:"Ask for the events of a subject." name:"add-subject"`
	RemoveSubject streamsDropCmd    `cmd:"" help:"Ask for no more events of a subject." name:"remove-subject"`
	Delete        streamsDeleteCmd  `cmd:"" help:"Delete a stream."`
}

// transmitterFlags say which transmitter is managed, and as whom.
type transmitterFlags struct {
	Transmitter string        `placeholder:"ISSUER" help:"Issuer identifier of the transmitter; default: the only one under event_streams."`
	TokenFile   string        `placeholder:"FILE" predictor:"file" help:"File with a bearer token that may manage streams; default: the credentials under event_streams."`
	Host        []string      `placeholder:"HOST" help:"Host that the transmitter's metadata may name besides its own."`
	Timeout     time.Duration `default:"20s" help:"Longest time for the transmitter's answers."`
}

// config returns how the transmitter is reached.
func (f *transmitterFlags) config(c *command, p *Process) (sharedsignals.StreamConfig, error) {
	s, err := c.settings(p)
	if err != nil {
		return sharedsignals.StreamConfig{}, err
	}
	at := slices.IndexFunc(s.EventStreams, func(e sharedsignals.StreamConfig) bool {
		return e.Transmitter == f.Transmitter || f.Transmitter == "" && len(s.EventStreams) == 1
	})
	var cfg sharedsignals.StreamConfig
	switch {
	case at >= 0:
		cfg = s.EventStreams[at]
	case f.Transmitter == "":
		return cfg, usage(fmt.Errorf("event_streams names %d transmitters; name one with --transmitter", len(s.EventStreams)))
	default:
		cfg.Transmitter = f.Transmitter
	}
	if f.TokenFile != "" {
		cfg.TokenFile, cfg.TokenURL, cfg.ClientID, cfg.ClientSecretFile, cfg.Scopes = f.TokenFile, "", "", "", nil
	}
	cfg.Hosts = append(slices.Clone(cfg.Hosts), f.Host...)
	if err := authz.ValidationErrors("transmitter", cfg.TransmitterConfig.Validate); err != nil {
		return cfg, usage(err)
	}
	return cfg, nil
}

// with calls do with the transmitter's streams and the entry of event_streams.
func (f *transmitterFlags) with(ctx context.Context, c *command, p *Process, do func(context.Context, *sharedsignals.Streams, sharedsignals.StreamConfig) error) error {
	cfg, err := f.config(c, p)
	if err != nil {
		return err
	}
	t, err := sharedsignals.NewTransmitter(cfg.TransmitterConfig, f.Timeout, authz.SystemClock{}, nil)
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	streams, err := t.Streams(ctx)
	if err != nil {
		return err
	}
	return explained(do(ctx, streams, cfg))
}

// explained adds what a status of SSF 1.0, section 8, means.
func explained(err error) error {
	var status *sharedsignals.StatusError
	if !errors.As(err, &status) {
		return err
	}
	hint := map[int]string{
		http.StatusUnauthorized:    "the transmitter does not accept the token",
		http.StatusForbidden:       "this receiver may not do that",
		http.StatusNotFound:        "this receiver has no such stream, or the transmitter does not know the subject",
		http.StatusConflict:        "the transmitter allows this receiver one stream, and it exists: see jwt-bouncer streams list, and update",
		http.StatusTooManyRequests: "too many requests; wait for the stream's min_verification_interval",
	}[status.Status]
	if hint == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, hint)
}

// find returns the stream with the given id or, if that is empty, the only one.
func find(ctx context.Context, s *sharedsignals.Streams, id string, cfg sharedsignals.StreamConfig) (sharedsignals.Stream, error) {
	if id == "" {
		id = cfg.StreamID
	}
	return s.Get(ctx, id, func(sharedsignals.Stream) bool { return true })
}

type streamsListCmd struct {
	outputFlag
	transmitterFlags
}

// Run implements the command.
func (l *streamsListCmd) Run(ctx context.Context, c *command, p *Process) error {
	return l.with(ctx, c, p, func(ctx context.Context, s *sharedsignals.Streams, _ sharedsignals.StreamConfig) error {
		streams, err := s.List(ctx)
		if err != nil {
			return err
		}
		if len(streams) == 0 && l.isTable() {
			fmt.Fprintln(p.Err, "this receiver has no stream at the transmitter")
			return nil
		}
		return l.print(p, streams, func(w io.Writer) { streamTable(w, streams...) })
	})
}

func streamTable(w io.Writer, streams ...sharedsignals.Stream) {
	columns(w, func(w io.Writer) {
		fmt.Fprintln(w, "STREAM\tDELIVERY\tENDPOINT\tAUDIENCE\tEVENTS\tDESCRIPTION")
		for _, s := range streams {
			delivery, endpoint := "-", "-"
			if s.Delivery != nil {
				delivery, endpoint = deliveryName(s.Delivery.Method), cell(s.Delivery.Endpoint)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", cell(s.ID), delivery, endpoint, cell(strings.Join(s.Audience, " ")), eventNames(s.EventsDelivered), cell(s.Description))
		}
	})
}

func deliveryName(method string) string {
	switch method {
	case sharedsignals.DeliveryPoll:
		return "poll"
	case sharedsignals.DeliveryPush:
		return "push"
	}
	return cell(method)
}

func eventNames(uris []string) string {
	var names []string
	for _, uri := range uris {
		names = append(names, uri[strings.LastIndexByte(uri, '/')+1:])
	}
	return cell(strings.Join(names, " "))
}

// deliveryFlags are what a receiver chooses of a stream (SSF 1.0, section 8.1.1).
type deliveryFlags struct {
	Push        string   `placeholder:"URL" help:"Have events pushed to this URL, which leads to /ssf/events of a sidecar."`
	Event       []string `placeholder:"TYPE" help:"Event type to ask for, by its URI or the URI's last part, such as session-revoked; default: all that revoke something here."`
	Description string   `help:"Description of the stream for people."`
}

// events returns the URIs of the event types.
func (d deliveryFlags) events() ([]string, error) {
	known := sharedsignals.EventTypes()
	if len(d.Event) == 0 {
		return known, nil
	}
	var out []string
	for _, name := range d.Event {
		if strings.Contains(name, ":") {
			out = append(out, name)
			continue
		}
		n := len(out)
		for _, uri := range known {
			if strings.HasSuffix(uri, "/"+name) {
				out = append(out, uri)
			}
		}
		if len(out) == n {
			return nil, usage(fmt.Errorf("--event %q is no event type that revokes something here; name others by their URI", name))
		}
	}
	return out, nil
}

func (d deliveryFlags) delivery() *sharedsignals.Delivery {
	if d.Push != "" {
		return &sharedsignals.Delivery{Method: sharedsignals.DeliveryPush, Endpoint: d.Push}
	}
	return &sharedsignals.Delivery{Method: sharedsignals.DeliveryPoll}
}

type streamsCreateCmd struct {
	outputFlag
	transmitterFlags
	deliveryFlags
}

// Help is shown by streams create --help.
func (*streamsCreateCmd) Help() string {
	return "Without --push, the stream is polled by the sidecars that have its transmitter under event_streams. A pushed stream's audience belongs into api.events.audiences."
}

// Run implements the command.
func (r *streamsCreateCmd) Run(ctx context.Context, c *command, p *Process) error {
	events, err := r.events()
	if err != nil {
		return err
	}
	return r.with(ctx, c, p, func(ctx context.Context, s *sharedsignals.Streams, _ sharedsignals.StreamConfig) error {
		got, err := s.Create(ctx, sharedsignals.Stream{Delivery: r.delivery(), EventsRequested: events, Description: r.Description})
		if err != nil {
			return err
		}
		if s.Metadata.DefaultSubjects == "NONE" {
			fmt.Fprintln(p.Err, "the transmitter sends no events before subjects are added (default_subjects is NONE), unless it is set up otherwise")
		}
		return r.print(p, got, func(w io.Writer) { streamTable(w, got) })
	})
}

type streamsUpdateCmd struct {
	outputFlag
	transmitterFlags
	deliveryFlags
	Stream  string `arg:"" optional:"" help:"The stream's stream_id; default: the only stream."`
	Poll    bool   `help:"Have events polled."`
	Replace bool   `help:"Replace everything that the receiver chooses: what is not given gets its default. Without it, what is not given stays."`
}

// Run implements the command.
func (u *streamsUpdateCmd) Run(ctx context.Context, c *command, p *Process) error {
	if u.Poll && u.Push != "" {
		return usage(errors.New("--poll and --push exclude each other"))
	}
	events, err := u.events()
	if err != nil {
		return err
	}
	change := sharedsignals.Stream{Description: u.Description}
	if u.Replace || len(u.Event) > 0 {
		change.EventsRequested = events
	}
	if u.Replace || u.Poll || u.Push != "" {
		change.Delivery = u.delivery()
	}
	return u.with(ctx, c, p, func(ctx context.Context, s *sharedsignals.Streams, cfg sharedsignals.StreamConfig) error {
		old, err := find(ctx, s, u.Stream, cfg)
		if err != nil {
			return err
		}
		change.ID = old.ID
		apply := s.Update
		if u.Replace {
			apply = s.Replace
		}
		got, err := apply(ctx, change)
		if err != nil {
			return err
		}
		return u.print(p, got, func(w io.Writer) { streamTable(w, got) })
	})
}

type streamsStatusCmd struct {
	outputFlag
	transmitterFlags
	Stream string `arg:"" optional:"" help:"The stream's stream_id; default: the only stream."`
	Set    string `enum:",enabled,paused,disabled" default:"" help:"The new status: enabled, paused (events are held) or disabled (events are lost)."`
	Reason string `help:"Why the status is set."`
}

// Run implements the command.
func (t *streamsStatusCmd) Run(ctx context.Context, c *command, p *Process) error {
	return t.with(ctx, c, p, func(ctx context.Context, s *sharedsignals.Streams, cfg sharedsignals.StreamConfig) error {
		stream, err := find(ctx, s, t.Stream, cfg)
		if err != nil {
			return err
		}
		var got sharedsignals.StreamStatus
		if t.Set == "" {
			got, err = s.Status(ctx, stream.ID)
		} else {
			got, err = s.SetStatus(ctx, sharedsignals.StreamStatus{ID: stream.ID, Status: t.Set, Reason: t.Reason})
		}
		if err != nil {
			return err
		}
		err = t.print(p, got, func(w io.Writer) { fmt.Fprintln(w, strings.TrimSpace(got.Status+" "+printable(got.Reason))) })
		if err == nil && t.Set == "" && got.Status != sharedsignals.StatusEnabled {
			return ErrNo
		}
		return err
	})
}

type streamsVerifyCmd struct {
	transmitterFlags
	Stream  string        `arg:"" optional:"" help:"The stream's stream_id; default: the only stream."`
	Sidecar []string      `placeholder:"ADDR" help:"host:port of the HTTP listener of a sidecar that receives the stream's events; default: listen.http. With several sidecars on one stream, name each: the event reaches one of them."`
	Wait    time.Duration `default:"1m" help:"Longest time to wait for the event."`
}

// Help is shown by streams verify --help.
func (*streamsVerifyCmd) Help() string {
	return "Exit codes: 0: a sidecar has received the event, verified its signature and acknowledged it. 3: none has in time."
}

// Run implements the command.
func (v *streamsVerifyCmd) Run(ctx context.Context, c *command, p *Process) error {
	sidecars := v.Sidecar
	if len(sidecars) == 0 {
		s, err := c.settings(p)
		if err != nil {
			return err
		}
		if s.Listen.HTTP == "" {
			return usage(errors.New("listen.http is empty, so no sidecar can be asked whether it has received the event; name the HTTP listener of one with --sidecar"))
		}
		sidecars = []string{s.Listen.HTTP}
	}
	state := rand.Text()
	err := v.with(ctx, c, p, func(ctx context.Context, s *sharedsignals.Streams, cfg sharedsignals.StreamConfig) error {
		stream, err := find(ctx, s, v.Stream, cfg)
		if err != nil {
			return err
		}
		return s.Verify(ctx, stream.ID, state)
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.Wait)
	defer cancel()
	return awaitVerification(ctx, p, sidecars, state)
}

// awaitVerification asks the sidecars until one has received the event.
func awaitVerification(ctx context.Context, p *Process, sidecars []string, state string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		for _, addr := range sidecars {
			ok, err := verified(ctx, addr, state)
			if ok {
				fmt.Fprintf(p.Out, "verified: the sidecar at %s has received the event\n", addr)
				return nil
			}
			if err != nil && ctx.Err() == nil {
				last = err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if last != nil {
				return last
			}
			fmt.Fprintln(p.Err, "the transmitter has accepted the request, and no sidecar has received the event in time")
			return ErrNo
		}
	}
}

// verified asks one sidecar whether it has received the verification event.
func verified(ctx context.Context, addr, state string) (bool, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false, usage(fmt.Errorf("--sidecar %q: host:port is needed, such as 127.0.0.1:9192", addr))
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // a listener on all addresses listens here too
	}
	code, text, err := get(ctx, "http://"+net.JoinHostPort(host, port)+"/ssf/verification?state="+url.QueryEscape(state))
	if err != nil {
		return false, fmt.Errorf("no answer from a sidecar: %w", err)
	}
	var answer struct {
		Received bool `json:"received"`
	}
	if code != http.StatusOK || json.Unmarshal(text, &answer) != nil {
		return false, fmt.Errorf("the sidecar at %s receives no events (status %d)", addr, code)
	}
	return answer.Received, nil
}

type streamsSubjectCmd struct {
	transmitterFlags
	Stream  string `arg:"" help:"The stream's stream_id."`
	Subject string `arg:"" placeholder:"JSON" help:"Subject identifier (RFC 9493), such as '{\"format\":\"iss_sub\",\"iss\":\"https://issuer.example\",\"sub\":\"alice\"}'."`
}

// Run implements the command.
func (a *streamsSubjectCmd) Run(ctx context.Context, c *command, p *Process) error {
	return a.change(ctx, c, p, (*sharedsignals.Streams).AddSubject)
}

func (a *streamsSubjectCmd) change(ctx context.Context, c *command, p *Process, do func(*sharedsignals.Streams, context.Context, string, map[string]any) error) error {
	var subject map[string]any
	if err := json.Unmarshal([]byte(a.Subject), &subject); err != nil || subject["format"] == nil {
		return usage(errors.New("the subject must be a JSON object with the member format (RFC 9493)"))
	}
	return a.with(ctx, c, p, func(ctx context.Context, s *sharedsignals.Streams, _ sharedsignals.StreamConfig) error {
		return do(s, ctx, a.Stream, subject)
	})
}

type streamsDropCmd struct{ streamsSubjectCmd }

// Run implements the command.
func (r *streamsDropCmd) Run(ctx context.Context, c *command, p *Process) error {
	return r.change(ctx, c, p, (*sharedsignals.Streams).RemoveSubject)
}

type streamsDeleteCmd struct {
	transmitterFlags
	Stream string `arg:"" help:"The stream's stream_id."`
}

// Run implements the command.
func (d *streamsDeleteCmd) Run(ctx context.Context, c *command, p *Process) error {
	return d.with(ctx, c, p, func(ctx context.Context, s *sharedsignals.Streams, _ sharedsignals.StreamConfig) error {
		return s.Delete(ctx, d.Stream)
	})
}
