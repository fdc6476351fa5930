//go:build go1.21

package hearthshim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const piece = 128 << 10 // bytes of a body in one frame; small enough that other streams get between

// call is one request in work: its body coming in and its answer going out, each within its credit.
type call struct {
	l        *link
	stream   uint32
	id       string
	deadline time.Time
	request  *http.Request
	cancelFn context.CancelCauseFunc

	mu        sync.Mutex
	changed   sync.Cond // any of the fields below
	pieces    [][]byte
	bodyEnded bool
	bodyShut  bool // closed by the handler or because it returned
	trailers  string
	room      int // body bytes that the host may send now
	owed      int // bytes read, for which no window frame has gone out yet
	credit    int64
	headSent  bool
	cancelled bool
	ended     bool // a frame with END is queued
	done      bool // the handler has returned
}

// callContext is a request's context. Its deadline is that of the response's head: a streamed body may go on after it.
type callContext struct {
	context.Context
	c *call
}

type callKey struct{}

func (x callContext) Deadline() (time.Time, bool) {
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if x.c.headSent {
		return time.Time{}, false
	}
	return x.c.deadline, true
}

func (x callContext) Value(key interface{}) interface{} {
	if key == (callKey{}) {
		return x.c
	}
	return x.Context.Value(key)
}

// newCall reads a request head.
func newCall(l *link, stream uint32, head string) (*call, error) {
	lines := strings.SplitN(head, "\n", 9)
	if len(lines) < 8 {
		return nil, violation("a request head of less than eight lines")
	}
	ms, err := strconv.ParseUint(lines[1], 10, 31)
	if err != nil {
		return nil, violation("a deadline that is no number")
	}
	c := &call{l: l, stream: stream, id: lines[0], room: window, credit: l.window}
	c.changed.L = &c.mu
	c.deadline = time.Now().Add(time.Duration(ms) * time.Millisecond)
	inner, cancel := context.WithCancelCause(context.Background())
	c.cancelFn = cancel
	r := &http.Request{
		Method: lines[2], RequestURI: lines[3], Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header, 8), RemoteAddr: net.JoinHostPort(lines[6], "0"), Body: &body{c}, ContentLength: -1,
	}
	r.URL, err = url.ParseRequestURI(lines[3])
	if err != nil {
		r.URL = nil // answered with 400 by run, as net/http does
	}
	if len(lines) == 9 {
		if err := readHeaders(r, lines[8]); err != nil {
			return nil, err
		}
	}
	if lines[4] != "" && r.Header.Get("X-Forwarded-Prefix") == "" {
		r.Header.Set("X-Forwarded-Prefix", lines[4])
	}
	if lines[5] != "" && r.Header.Get("X-Hearth-Caller") == "" {
		r.Header.Set("X-Hearth-Caller", lines[5])
	}
	c.request = r.WithContext(callContext{inner, c})
	return c, nil
}

func readHeaders(r *http.Request, lines string) error {
	values := make([]string, 0, strings.Count(lines, "\n")+1) // one allocation for all
	for lines != "" {
		line, rest, _ := strings.Cut(lines, "\n")
		lines = rest
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return violation("a malformed header")
		}
		if name == "host" {
			r.Host = value
			continue
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		if before, there := r.Header[key]; there {
			r.Header[key] = append(before, value)
			continue
		}
		values = append(values, value)
		r.Header[key] = values[len(values)-1 : len(values) : len(values)]
	}
	if length, err := strconv.ParseInt(r.Header.Get("Content-Length"), 10, 64); err == nil && length >= 0 {
		r.ContentLength = length
	}
	for _, name := range strings.Split(strings.Join(r.Header["Trailer"], ","), ",") {
		if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); name != "" {
			if r.Trailer == nil {
				r.Trailer = make(http.Header)
			}
			r.Trailer[name] = nil
		}
	}
	return nil
}

func (c *call) addCredit(credit uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.credit += int64(credit)
	if c.credit > maxCredit {
		return violation("a window that overflows")
	}
	c.changed.Broadcast()
	return nil
}

// cancel tells the handler that nobody waits any more; the stream ends once it has returned.
func (c *call) cancel(reason string) {
	c.mu.Lock()
	c.cancelled = true
	c.pieces = nil
	c.changed.Broadcast()
	c.mu.Unlock()
	if reason == "timeout" {
		c.cancelFn(context.DeadlineExceeded)
		return
	}
	c.cancelFn(fmt.Errorf("hearth: the request was cancelled (%s): %w", reason, context.Canceled))
}

// errCancelled is what reads and writes of a cancelled request give.
var errCancelled = errors.New("hearth: the request was cancelled")

// send queues body bytes as credit allows, and waits where there is none.
func (c *call) send(data []byte, end bool) error {
	for {
		c.mu.Lock()
		for c.credit == 0 && len(data) > 0 && !c.cancelled {
			c.changed.Wait()
		}
		if c.cancelled {
			c.mu.Unlock()
			return errCancelled
		}
		n := len(data)
		if int64(n) > c.credit {
			n = int(c.credit)
		}
		if n > piece {
			n = piece
		}
		c.credit -= int64(n)
		last := end && n == len(data)
		c.ended = last
		c.mu.Unlock()
		c.l.out.frame(kBody, endFlag(last), c.stream, data[:n])
		if data = data[n:]; len(data) == 0 {
			return nil
		}
	}
}

func endFlag(end bool) uint8 {
	if end {
		return flagEnd
	}
	return 0
}

// run calls the handler and sees to it that the stream ends exactly once.
func (c *call) run() {
	w := newResponse(c)
	returned := false
	defer func() {
		var problem *failure
		if !returned {
			problem = failureOf(recover())
		} else {
			problem = w.finish()
		}
		c.end(problem)
		w.release()
	}()
	if c.request.URL == nil {
		http.Error(w, "400 Bad Request: malformed URL", http.StatusBadRequest)
	} else {
		c.measureBody()
		c.l.handler(w, c.request)
	}
	returned = true
}

// end queues the last frame, unless the response had one, and forgets the call.
func (c *call) end(problem *failure) {
	c.mu.Lock()
	c.done = true
	c.bodyShut = true
	c.pieces = nil
	ended, cancelled := c.ended, c.cancelled
	c.changed.Broadcast()
	c.mu.Unlock()
	switch {
	case ended:
	case cancelled || problem == aborted:
		c.l.out.frame(kCancel, 0, c.stream, []byte(`{"reason":"cancelled"}`))
	case problem != nil:
		c.l.logs.emit(c, "stderr", "error", problem.Traceback)
		payload, _ := json.Marshal(problem) // three strings
		c.l.out.frame(kError, 0, c.stream, payload)
	}
	c.l.finished(c)
	c.cancelFn(context.Canceled)
}
