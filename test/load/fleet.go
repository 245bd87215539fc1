package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// FleetCommand is what a program of package sidecars reads from standard input,
// one JSON value a line.
type FleetCommand struct {
	// Op is one of:
	//   start    run the sidecars; answered when all are ready, or after Wait
	//   watch    ask a few sidecars about the token until they deny it; not answered
	//   acked    the revocation ID was acknowledged at At; not answered
	//   begin    forget the samples so far; answered
	//   account  answered with the bytes so far
	//   collect  wait for the watches that have begun to end; answered
	//   stop     close the sidecars; answered
	Op    string
	Wait  time.Duration
	ID    int           // of a revocation
	JTI   string        // that it revokes
	Token string        // with that JTI
	At    time.Duration // CLOCK_BOOTTIME
}

// FleetReply answers a FleetCommand.
type FleetReply struct {
	Ready     []time.Duration // from start until a sidecar was ready, one for each that was
	Watches   []FleetWatch
	Staleness []time.Duration // of every sidecar, twice a second; negative: never loaded
	Bytes     int64           // read and written by the process so far
	Error     string
}

// FleetWatch is what one sidecar said about one revoked token.
type FleetWatch struct {
	ID     int           // of the revocation
	Denied time.Duration // CLOCK_BOOTTIME of the first denial; 0: there was none
	// Allowed is true if the sidecar vouched for the token later than max_staleness
	// after the revocation had been acknowledged. It must never be.
	Allowed bool
}

// SocketBytes returns the number of bytes that this process has read and written.
// Go uses read and write for sockets, so that a process without files has no
// other traffic.
func SocketBytes() (int64, error) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	var total int64
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ": ")
		if name == "rchar" || name == "wchar" {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}

// FleetPipe sends commands to a program of package sidecars and reads its replies.
type FleetPipe struct {
	mu  sync.Mutex // Send may be called concurrently
	in  *json.Encoder
	out *json.Decoder
}

// NewFleetPipe returns the pipe over the program's standard input and output.
func NewFleetPipe(in io.Writer, out io.Reader) *FleetPipe {
	return &FleetPipe{in: json.NewEncoder(in), out: json.NewDecoder(bufio.NewReader(out))}
}

// Send sends a command.
func (p *FleetPipe) Send(c FleetCommand) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in.Encode(c)
}

// Receive reads the reply to the last command that is answered.
func (p *FleetPipe) Receive() (FleetReply, error) {
	var r FleetReply
	if err := p.out.Decode(&r); err != nil {
		return r, fmt.Errorf("sidecars: %w", err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("sidecars: %s", r.Error)
	}
	return r, nil
}
