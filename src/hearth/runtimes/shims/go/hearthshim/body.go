//go:build go1.21

package hearthshim

import (
	"encoding/binary"
	"io"
	"net/http"
	"strings"
)

func (c *call) receive(payload []byte, end bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bodyEnded {
		return violation("a body that goes on after its end")
	}
	if len(payload) > c.room {
		return violation("more of a body than its window allows")
	}
	c.room -= len(payload)
	if len(payload) > 0 && !c.bodyShut && !c.cancelled {
		c.pieces = append(c.pieces, append([]byte(nil), payload...))
	}
	c.bodyEnded = end
	c.changed.Broadcast()
	return nil
}

func (c *call) receiveTrailers(lines string) error {
	c.mu.Lock()
	c.trailers = lines
	c.mu.Unlock()
	return c.receive(nil, true)
}

// body is a request's body as the handler reads it.
type body struct{ c *call }

func (b *body) Read(p []byte) (int, error) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.bodyShut:
			return 0, http.ErrBodyReadAfterClose
		case c.cancelled:
			return 0, errCancelled
		case len(p) == 0:
			return 0, nil
		case len(c.pieces) > 0:
			n := copy(p, c.pieces[0])
			if c.pieces[0] = c.pieces[0][n:]; len(c.pieces[0]) == 0 {
				c.pieces = c.pieces[1:]
			}
			c.grant(n)
			return n, nil
		case c.bodyEnded:
			c.setTrailers()
			return 0, io.EOF
		}
		c.changed.Wait()
	}
}

func (b *body) Close() error {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.c.bodyShut = true
	b.c.pieces = nil
	b.c.changed.Broadcast()
	return nil
}

// grant gives the host credit for bytes that were read. The call is locked.
func (c *call) grant(n int) {
	if c.bodyEnded || c.done {
		return
	}
	if c.owed += n; c.owed*4 < window {
		return
	}
	c.l.out.frame(kWindow, 0, c.stream, binary.BigEndian.AppendUint32(nil, uint32(c.owed)))
	c.room += c.owed
	c.owed = 0
}

// setTrailers fills Request.Trailer at the body's end. The call is locked.
func (c *call) setTrailers() {
	for _, line := range strings.Split(c.trailers, "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			if c.request.Trailer == nil {
				c.request.Trailer = make(http.Header)
			}
			c.request.Trailer.Add(name, value)
		}
	}
	c.trailers = ""
}

// measureBody tells the length of a body that is there already.
func (c *call) measureBody() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.bodyEnded || c.trailers != "" {
		return
	}
	c.request.ContentLength = 0
	for _, one := range c.pieces {
		c.request.ContentLength += int64(len(one))
	}
	if len(c.pieces) == 0 {
		c.request.Body = http.NoBody
	}
}
