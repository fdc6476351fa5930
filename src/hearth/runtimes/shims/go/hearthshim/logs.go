//go:build go1.21

package hearthshim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const maxLine = 64 << 10 // bytes of text in one line

// logs sends lines to the host within the credit that it has given.
type logs struct {
	l       *link
	mu      sync.Mutex
	credit  int64
	dropped int
}

// installLogs makes the host the destination of slog's default logger, and so of package log.
func installLogs(l *link, credit int64) *logs {
	made := &logs{l: l, credit: credit}
	shared := &attrText{}
	options := slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: attrsOnly}
	slog.SetDefault(slog.New(&logHandler{logs: made, inner: slog.NewTextHandler(&shared.buf, &options), text: shared}))
	return made
}

func (s *logs) grant(bytes int64) {
	s.mu.Lock()
	s.credit += bytes
	s.mu.Unlock()
}

// emit sends a line; without a call, it belongs to the only request in work, if there is just one. It is written
// before emit returns, so that the last words before an os.Exit get out.
func (s *logs) emit(c *call, level, text string) {
	if c == nil {
		c = s.l.only()
	}
	var inv interface{}
	if c != nil {
		inv = c.id
	}
	if len(text) > maxLine {
		end := maxLine
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	s.mu.Lock()
	if s.dropped > 0 {
		text = fmt.Sprintf("[%d line(s) dropped before this one] %s", s.dropped, text)
	}
	payload, err := json.Marshal(map[string]interface{}{
		"inv": inv, "stream": "log", "t": time.Now().UnixMilli(), "level": level, "text": text,
	})
	if err != nil || int64(len(payload)) > s.credit {
		s.dropped++
		s.mu.Unlock()
		return
	}
	s.credit -= int64(len(payload))
	s.dropped = 0
	s.l.out.frame(kLog, 0, 0, payload)
	s.mu.Unlock()
	s.l.out.flush()
}

// logHandler writes a record as its message and its attributes, `message key=value`.
type logHandler struct {
	logs  *logs
	inner slog.Handler // formats the attributes alone, into text.buf
	text  *attrText
	attrs bool // attributes were given by With
}

type attrText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// attrsOnly leaves out what the protocol has fields of its own for.
func attrsOnly(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 {
		_, level := a.Value.Any().(slog.Level)
		if a.Key == slog.LevelKey && level || a.Key == slog.MessageKey && a.Value.Equal(slog.StringValue("")) {
			return slog.Attr{}
		}
	}
	return a
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

func (h *logHandler) Handle(ctx context.Context, record slog.Record) error {
	text := strings.TrimSuffix(record.Message, "\n")
	if record.NumAttrs() > 0 || h.attrs {
		bare := record.Clone()
		bare.Time, bare.Message = time.Time{}, ""
		h.text.mu.Lock()
		h.text.buf.Reset()
		err := h.inner.Handle(ctx, bare)
		attrs := strings.TrimSuffix(h.text.buf.String(), "\n")
		h.text.mu.Unlock()
		if err != nil {
			return err
		}
		if attrs != "" {
			text += " " + attrs
		}
	}
	var c *call
	if ctx != nil {
		c, _ = ctx.Value(callKey{}).(*call)
	}
	h.logs.emit(c, levelName(record.Level), text)
	return nil
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.logs, h.inner.WithAttrs(attrs), h.text, h.attrs || len(attrs) > 0}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.logs, h.inner.WithGroup(name), h.text, h.attrs}
}

func levelName(level slog.Level) string {
	switch {
	case level < slog.LevelInfo:
		return "debug"
	case level < slog.LevelWarn:
		return "info"
	case level < slog.LevelError:
		return "warn"
	}
	return "error"
}
