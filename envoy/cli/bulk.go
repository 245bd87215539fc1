package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
)

// batchSize is the number of revocations that an import stores in one transaction.
const batchSize = 1000

// importer stores the revocation requests that it reads from standard input.
type importer struct {
	*Process
	revoker     *authz.Revoker
	issuers     authz.Issuers
	skipExpired bool // skip requests whose expires_at has passed
	wait        bool // return only when the revocations are enforced
	output      outputFlag

	batch   []authz.Revocation // not yet stored
	stored  int
	skipped int
	last    authz.Receipt
}

// run imports in batches. An invalid request ends the import before anything of
// its batch is stored. The error gives the position of the request and the
// number of revocations stored before. An import can be repeated as a whole:
// revocations that are already stored do not change.
func (i *importer) run(ctx context.Context) error {
	input, who := newRequestReader(i.In), actor()
	var at position
	for {
		var text []byte
		var err error
		text, at, err = input.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = i.add(text, who)
		}
		if err != nil {
			return fmt.Errorf("%s: %w (%d stored before; repeating the whole input is safe)", at, err, i.stored)
		}
		if len(i.batch) >= batchSize {
			if err := i.flush(ctx, at); err != nil {
				return err
			}
		}
	}
	if err := i.flush(ctx, at); err != nil {
		return err
	}
	if i.skipped > 0 {
		fmt.Fprintf(i.Err, "skipped %d requests whose expires_at has passed\n", i.skipped)
	}
	switch {
	case i.stored == 0 && i.skipped > 0:
		return nil
	case i.stored == 0:
		return errors.New("the input contains no revocation request; JSON objects such as {\"jti\":\"…\"} are needed, one after another or in an array")
	case i.wait:
		if err := i.last.Wait(ctx); err != nil {
			return err
		}
	}
	return i.print()
}

// add normalizes one request and adds its revocations to the batch.
func (i *importer) add(text []byte, actor string) error {
	requests, _, err := httpapi.DecodeRequests(text)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, q := range requests {
		if i.skipExpired && q.Expired(now) {
			i.skipped++
			continue
		}
		q.RevokedBy = actor
		revocations, err := q.Normalize(i.issuers, now)
		if err != nil {
			return err
		}
		i.batch = append(i.batch, revocations...)
	}
	return nil
}

// flush stores the batch. at is the position of its last request.
func (i *importer) flush(ctx context.Context, at position) error {
	if len(i.batch) == 0 {
		return nil
	}
	receipt, err := i.revoker.Revoke(ctx, i.batch)
	if err != nil {
		return fmt.Errorf("up to line %d: %w (%d stored before; repeating the whole input is safe)", at.line, withHint(err), i.stored)
	}
	receipt.Published = receipt.Published && (i.stored == 0 || i.last.Published)
	i.stored += len(i.batch)
	i.last, i.batch = receipt, i.batch[:0]
	if isTerminal(i.Err) {
		// The length of the input is unknown: the bar shows activity, not progress.
		const width = 24
		n := i.stored / batchSize % width
		fmt.Fprintf(i.Err, "\r[%s>%s] %d revoked", strings.Repeat("=", n), strings.Repeat(" ", width-n-1), i.stored)
	}
	return nil
}

func (i *importer) print() error {
	if isTerminal(i.Err) {
		fmt.Fprintln(i.Err) // ends the line of the bar
	}
	result := struct {
		Stored int `json:"stored"`
		receiptJSON
	}{i.stored, newReceiptJSON(i.last)}
	return i.output.print(i.Process, result, func(w io.Writer) {
		fmt.Fprintf(w, "revoked %d, committed %s, enforced everywhere within %s\n", i.stored, i.last.Committed.UTC().Format(time.RFC3339), i.last.EnforcedWithin)
	})
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
