//go:build go1.21

package hearthshim

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
)

const (
	bufferSize = 16 << 10 // bytes of a body that wait for more, as in net/http
	sniffSize  = 512
	maxHead    = 256 << 10
)

// response is the http.ResponseWriter of one call. It can be flushed; it can't be hijacked.
type response struct {
	c       *call
	header  http.Header
	status  int    // 0 until WriteHeader
	head    []byte // header lines as they were at WriteHeader, each after a "\n"
	typed   bool   // head has a content-type or a content-encoding
	length  int64  // the declared content-length, or -1
	written int64
	started bool // the head has been sent
	noBody  bool // HEAD, 204, 304: what is written is counted, not sent
	buf     []byte
	bad     *failure
	trail   []string // announced trailers
	kept    *buffer
}

var buffers = sync.Pool{New: func() interface{} { return &buffer{} }}

type buffer struct{ head, body []byte }

func newResponse(c *call) *response {
	kept := buffers.Get().(*buffer)
	return &response{c: c, header: make(http.Header), length: -1, head: kept.head[:0], buf: kept.body[:0], kept: kept}
}

// release gives the buffers back; the handler has returned, and writes that come after are refused.
func (w *response) release() {
	if cap(w.head) <= bufferSize && cap(w.buf) <= 2*bufferSize {
		w.kept.head, w.kept.body = w.head, w.buf
		buffers.Put(w.kept)
	}
	w.head, w.buf, w.kept = nil, nil, nil
}

func (w *response) Header() http.Header { return w.header }

func (w *response) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %d", status))
	}
	if w.status != 0 {
		w.c.l.logs.emit(w.c, "log", "warning", "http: superfluous response.WriteHeader call")
		return
	}
	if status < 200 {
		return // informational answers are the host's own affair
	}
	w.status = status
	w.noBody = w.c.request.Method == http.MethodHead || !bodyAllowed(status)
	for name, values := range w.header {
		w.addHeader(name, values)
	}
	if status > 599 {
		w.bad = badResponse("status %d is not a number from 200 to 599", status)
	}
}

func bodyAllowed(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

func (w *response) addHeader(name string, values []string) {
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Content-Type", "Content-Encoding":
		w.typed = true
	case "Content-Length":
		length, err := strconv.ParseInt(strings.Join(values, ","), 10, 64)
		if err != nil || length < 0 {
			w.bad = badResponse("the content-length %q is no number", strings.Join(values, ","))
			return
		}
		w.length = length
	case "Trailer":
		for _, one := range strings.Split(strings.Join(values, ","), ",") {
			w.trail = append(w.trail, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(one)))
		}
		return
	case "Transfer-Encoding":
		return // how an answer is framed is the host's own affair
	}
	if strings.HasPrefix(name, http.TrailerPrefix) {
		return
	}
	for _, value := range values {
		var problem string
		if w.head, problem = appendHeader(w.head, name, value); problem != "" {
			w.bad = badResponse("%s", problem)
		}
	}
	if len(w.head) > maxHead {
		w.bad = badResponse("the headers are longer than %d bytes", maxHead)
		w.head = w.head[:0]
	}
}

// appendHeader adds "\n", the name in lower case, a colon and the value; or says why it can't.
func appendHeader(to []byte, name, value string) ([]byte, string) {
	before := len(to)
	to = append(to, '\n')
	for i := 0; i < len(name); i++ {
		b := name[i]
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		if !('a' <= b && b <= 'z' || '0' <= b && b <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0) {
			return to[:before], fmt.Sprintf("%q is not a name for a header", name)
		}
		to = append(to, b)
	}
	if name == "" || strings.ContainsAny(value, "\r\n\x00") {
		return to[:before], fmt.Sprintf("header %s has a line break or a NUL, or no name", name)
	}
	return append(append(to, ':'), textproto.TrimString(value)...), ""
}

func (w *response) Write(p []byte) (int, error) {
	if w.c.isOver() {
		return 0, errCancelled
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !bodyAllowed(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.length >= 0 && w.written+int64(len(p)) > w.length {
		return 0, http.ErrContentLength
	}
	w.written += int64(len(p))
	if w.noBody {
		if room := sniffSize - len(w.buf); room > 0 {
			w.buf = append(w.buf, p[:least(room, len(p))]...)
		}
		return len(p), nil
	}
	if len(w.buf)+len(p) <= bufferSize {
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	w.sniff(p)
	if err := w.push(); err != nil {
		return 0, err
	}
	if len(p) < bufferSize {
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	if err := w.c.send(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush sends what is written so far, the head included.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *response) FlushError() error {
	if w.c.isOver() {
		return errCancelled
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.noBody {
		return nil
	}
	w.sniff(nil)
	return w.push()
}

// EnableFullDuplex is for http.ResponseController: reading after writing always works here.
func (w *response) EnableFullDuplex() error { return nil }

// sniff adds the content-type by the first bytes where the handler gave none, as net/http does.
func (w *response) sniff(next []byte) {
	if w.typed || w.started || len(w.buf)+len(next) == 0 {
		return
	}
	first := w.buf
	if len(first) < sniffSize && len(next) > 0 {
		first = append(append(make([]byte, 0, sniffSize), first...), next[:least(sniffSize-len(first), len(next))]...)
	}
	w.typed = true
	w.head = append(append(w.head, "\ncontent-type:"...), http.DetectContentType(first)...)
}

// push sends the head, if it has not gone out, and what is buffered.
func (w *response) push() error {
	if w.bad != nil {
		return fmt.Errorf("hearth: %s", w.bad.Message)
	}
	if !w.started {
		w.sendHead(0, nil)
	}
	if len(w.buf) == 0 {
		return nil
	}
	err := w.c.send(w.buf, false)
	w.buf = w.buf[:0]
	return err
}

// sendHead queues the response frame with the body's first bytes.
func (w *response) sendHead(flags uint8, first []byte) {
	w.started = true
	w.c.mu.Lock()
	w.c.headSent = true
	cancelled := w.c.cancelled
	w.c.ended = flags&flagEnd != 0 && !cancelled
	w.c.mu.Unlock()
	if cancelled {
		return
	}
	var fixed [16]byte
	size := strconv.AppendInt(fixed[4:4], int64(w.status), 10)
	binary.BigEndian.PutUint32(fixed[:4], uint32(len(size)+len(w.head)))
	w.c.l.out.frame(kResponse, flags, w.c.stream, fixed[:4+len(size)], w.head, first)
}

// finish sends the rest once the handler has returned. It gives what is wrong with the answer.
func (w *response) finish() *failure {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.bad == nil && w.length >= 0 && !w.noBody && w.written != w.length {
		w.bad = badResponse("the handler declared a content-length of %d and wrote %d bytes", w.length, w.written)
	}
	if w.bad != nil {
		return w.bad
	}
	w.sniff(nil)
	if w.noBody {
		if w.length < 0 && w.written > 0 {
			w.head = strconv.AppendInt(append(w.head, "\ncontent-length:"...), w.written, 10)
		}
		w.sendHead(flagEnd, nil)
		return nil
	}
	trailers, problem := w.trailers()
	if problem != nil {
		return problem
	}
	if !w.started {
		if trailers == nil && int64(len(w.buf)) <= w.c.creditNow() {
			w.sendHead(flagEnd, w.buf)
			return nil
		}
		w.sendHead(0, nil)
	}
	if trailers == nil {
		_ = w.c.send(w.buf, true) // fails only when cancelled, which `end` knows
		return nil
	}
	if len(w.buf) > 0 && w.c.send(w.buf, false) != nil {
		return nil
	}
	w.c.mu.Lock()
	w.c.ended = !w.c.cancelled
	ended := w.c.ended
	w.c.mu.Unlock()
	if ended {
		w.c.l.out.frame(kTrailers, flagEnd, w.c.stream, trailers[1:])
	}
	return nil
}

// trailers gives their lines, each after a "\n", or nil when there are none.
func (w *response) trailers() ([]byte, *failure) {
	var lines []byte
	add := func(name string, values []string) (problem string) {
		for _, value := range values {
			if lines, problem = appendHeader(lines, name, value); problem != "" {
				return problem
			}
		}
		return ""
	}
	for _, name := range w.trail {
		if problem := add(name, w.header[name]); problem != "" {
			return nil, badResponse("%s", problem)
		}
	}
	for key, values := range w.header {
		if name := strings.TrimPrefix(key, http.TrailerPrefix); name != key {
			if problem := add(name, values); problem != "" {
				return nil, badResponse("%s", problem)
			}
		}
	}
	return lines, nil
}

func (c *call) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cancelled || c.done
}

func (c *call) creditNow() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.credit
}

func least(a, b int) int {
	if a < b {
		return a
	}
	return b
}
