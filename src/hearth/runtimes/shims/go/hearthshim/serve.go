//go:build go1.21

// Package hearthshim lets a Hearth function answer requests over the guest protocol
// (docs/reference/guest-protocol.md). A build adds it to the function's own module by `go build -overlay`; it uses the
// standard library alone, and nothing newer than Go 1.21.
package hearthshim

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
)

const window = 256 << 10 // bytes of a request's body that the host may have under way

// handover is what the launcher, which has said hello and read `load`, tells in HEARTH_GUEST.
type handover struct {
	FD        int   `json:"fd"`
	Window    int64 `json:"window"`
	LogWindow int64 `json:"log_window"`
}

type link struct {
	out     *writer
	logs    *logs
	window  int64 // credit of each new answer's body
	handler http.HandlerFunc

	mu       sync.Mutex
	calls    map[uint32]*call
	last     uint32
	draining bool
}

// The connection is taken over before the function's own package is initialised: what its init functions log goes the
// right way, and a program that they start doesn't inherit the descriptor.
var guest, guestConn = takeOver()

func takeOver() (*link, net.Conn) {
	told, there := os.LookupEnv("HEARTH_GUEST")
	if !there {
		return nil, nil // not in a sandbox: a test of the function's own, or a person who tries the binary
	}
	os.Unsetenv("HEARTH_GUEST")
	var from handover
	if err := json.Unmarshal([]byte(told), &from); err != nil {
		fail("HEARTH_GUEST is malformed: %v", err)
	}
	syscall.CloseOnExec(from.FD)
	file := os.NewFile(uintptr(from.FD), "guest.sock")
	conn, err := net.FileConn(file)
	if err != nil {
		fail("descriptor %d is no connection: %v", from.FD, err)
	}
	file.Close()
	l := &link{out: newWriter(conn), window: from.Window, calls: make(map[uint32]*call)}
	l.logs = installLogs(l, from.LogWindow)
	return l, conn
}

func fail(format string, values ...interface{}) {
	fmt.Fprintf(os.Stderr, "hearth: "+format+"\n", values...)
	os.Exit(1)
}

// Serve answers requests with the handler until the connection ends. It does not return.
func Serve(name string, handler func(http.ResponseWriter, *http.Request)) {
	if guest == nil {
		fail("this program is a Hearth function: deploy it, or try it with `hearth dev`")
	}
	guest.handler = handler
	ready, _ := json.Marshal(map[string]string{"handler": name, "shape": "http", "runtime_version": runtime.Version()})
	guest.out.frame(kReady, 0, 0, ready)
	if err := readFrames(guestConn, guest.frame); err != nil {
		fail("the host broke the protocol: %v", err)
	}
	os.Exit(0)
}

func (l *link) frame(kind, flags uint8, stream uint32, payload []byte) error {
	end := flags&flagEnd != 0
	switch kind {
	case kRequest:
		return l.request(stream, payload, end)
	case kBody, kTrailers:
		c, err := l.of(stream)
		if c == nil {
			return err
		}
		if kind == kTrailers {
			return c.receiveTrailers(string(payload))
		}
		return c.receive(payload, end)
	case kWindow:
		credit, err := u32(payload)
		if err != nil {
			return err
		}
		c, err := l.of(stream)
		if c == nil {
			return err
		}
		return c.addCredit(credit)
	case kCancel:
		var told struct {
			Reason string `json:"reason"`
		}
		if err := json.Unmarshal(payload, &told); err != nil {
			return violation("a malformed cancel")
		}
		c, err := l.of(stream)
		if c == nil {
			return err
		}
		c.cancel(told.Reason)
	case kLogWindow:
		credit, err := u32(payload)
		if err != nil {
			return err
		}
		l.logs.grant(int64(credit))
	case kPing:
		if len(payload) > 64 {
			return violation("a ping of more than 64 bytes")
		}
		l.out.frame(kPong, 0, 0, payload)
	case kDrain:
		l.mu.Lock()
		l.draining = true
		idle := len(l.calls) == 0
		l.mu.Unlock()
		if idle {
			l.leave()
		}
	case kHello, kLoad:
		return violation(fmt.Sprintf("a second frame of type %d", kind))
	case kReady, kInitError, kResponse, kError, kUpgrade, kLog:
		return violation(fmt.Sprintf("a frame of type %d, which only a guest sends", kind))
	}
	return nil // a pong, or a type from a later version of the protocol
}

// of gives a stream's call, nil when it has ended.
func (l *link) of(stream uint32) (*call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[stream]
	if c == nil && (stream > l.last || stream == 0) {
		return nil, violation(fmt.Sprintf("stream %d never existed", stream))
	}
	return c, nil
}

func (l *link) request(stream uint32, payload []byte, end bool) error {
	if len(payload) < 4 || int(binary.BigEndian.Uint32(payload)) > len(payload)-4 {
		return violation("a head longer than its frame")
	}
	size := int(binary.BigEndian.Uint32(payload))
	c, err := newCall(l, stream, string(payload[4:4+size]))
	if err != nil {
		return err
	}
	if err := c.receive(payload[4+size:], end); err != nil {
		return err
	}
	l.mu.Lock()
	if stream <= l.last {
		l.mu.Unlock()
		return violation(fmt.Sprintf("stream %d was used before", stream))
	}
	l.last = stream
	draining := l.draining
	if !draining { // else the host has said that it sends no more
		l.calls[stream] = c
	}
	l.mu.Unlock()
	if !draining {
		l.out.busy.Add(1)
		go c.run()
	}
	return nil
}

// finished forgets a call whose last frame is queued.
func (l *link) finished(c *call) {
	l.out.busy.Add(-1)
	l.mu.Lock()
	delete(l.calls, c.stream)
	leave := l.draining && len(l.calls) == 0
	l.mu.Unlock()
	if leave {
		l.leave()
	}
}

// only gives the call in work when there is exactly one: what can't be told apart belongs to it.
func (l *link) only() *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.calls) == 1 {
		for _, c := range l.calls {
			return c
		}
	}
	return nil
}

func (l *link) leave() {
	l.out.flush()
	os.Exit(0)
}

func u32(payload []byte) (uint32, error) {
	if len(payload) != 4 {
		return 0, violation("a window that is not four bytes")
	}
	return binary.BigEndian.Uint32(payload), nil
}

// relative names a source file as its author does: builds trim the path to the module's own.
func relative(file string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return strings.TrimPrefix(file, info.Main.Path+"/")
	}
	return file
}
