//go:build go1.21

package hearthshim

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
)

// Frame types of the guest protocol (docs/reference/guest-protocol.md).
const (
	kHello uint8 = iota + 1
	kLoad
	kReady
	kInitError
	kRequest
	kResponse
	kBody
	kTrailers
	kError
	kCancel
	kWindow
	kUpgrade
	kDrain
	kPing
	kPong
	kLog
	kLogWindow
)

const (
	flagEnd    = 1
	headerSize = 10
	maxPayload = 1 << 20
	maxCredit  = 1<<31 - 1
	keepBuffer = 256 << 10 // a larger buffer is not kept for the next write
)

// violation is what the host did against the protocol; it ends the connection and the process.
type violation string

func (v violation) Error() string { return string(v) }

// writer puts the frames of all goroutines into as few writes as it can.
type writer struct {
	conn net.Conn
	busy atomic.Int32 // requests in work: with more than one, a write waits for the others' frames

	mu      sync.Mutex // of waiting
	waiting []byte

	turn  sync.Mutex // held while writing, so that flushes keep their order
	spare []byte

	wake chan struct{}
}

func newWriter(conn net.Conn) *writer {
	w := &writer{conn: conn, wake: make(chan struct{}, 1)}
	go w.loop()
	return w
}

func (w *writer) loop() {
	for range w.wake {
		if w.busy.Load() > 1 {
			runtime.Gosched() // handlers that are about to answer do so first
		}
		w.flush()
	}
}

// frame queues a frame whose payload is the given parts one after the other.
func (w *writer) frame(kind, flags uint8, stream uint32, parts ...[]byte) {
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	w.mu.Lock()
	buf := binary.BigEndian.AppendUint32(w.waiting, uint32(size))
	buf = append(buf, kind, flags)
	buf = binary.BigEndian.AppendUint32(buf, stream)
	for _, part := range parts {
		buf = append(buf, part...)
	}
	w.waiting = buf
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// flush writes what waits. Errors are the reader's to notice: the connection is closed then.
func (w *writer) flush() {
	w.turn.Lock()
	defer w.turn.Unlock()
	w.mu.Lock()
	out := w.waiting
	w.waiting = w.spare[:0]
	w.mu.Unlock()
	if len(out) > 0 {
		_, _ = w.conn.Write(out)
	}
	if cap(out) <= keepBuffer {
		w.spare = out
	} else {
		w.spare = nil
	}
}

// readFrames calls on for each frame; its payload is valid only during the call. It returns the violation that on
// or the stream itself gave, or nil when the connection has ended.
func readFrames(conn io.Reader, on func(kind, flags uint8, stream uint32, payload []byte) error) error {
	in := bufio.NewReaderSize(conn, 128<<10)
	var large []byte
	for {
		header, err := in.Peek(headerSize)
		if err != nil {
			return nil
		}
		size := int(binary.BigEndian.Uint32(header))
		kind, flags, stream := header[4], header[5], binary.BigEndian.Uint32(header[6:])
		if size > maxPayload {
			return violation(fmt.Sprintf("a frame of %d bytes", size))
		}
		_, _ = in.Discard(headerSize)
		var payload []byte
		if size <= in.Size() {
			payload, err = in.Peek(size)
		} else {
			if large == nil {
				large = make([]byte, maxPayload)
			}
			payload = large[:size]
			_, err = io.ReadFull(in, payload)
		}
		if err != nil {
			return nil
		}
		if err := on(kind, flags, stream, payload); err != nil {
			return err
		}
		if size <= in.Size() {
			_, _ = in.Discard(size)
		}
	}
}
