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
	if s.dropped > 0 {
		s.confess()
	}
	s.mu.Unlock()
}

// emit sends text line by line; without a call, it belongs to the only request in work, if there is just one. It is
// written before emit returns, so that the last words before an os.Exit get out.
func (s *logs) emit(c *call, stream, level, text string) {
	if c == nil {
		c = s.l.only()
	}
	s.mu.Lock()
	for more := true; more; {
		var line string
		line, text, more = strings.Cut(text, "\n")
		if s.dropped > 0 && !s.confess() || !s.send(c, stream, level, cut(line)) {
			s.dropped++
		}
	}
	s.mu.Unlock()
	s.l.out.flush()
}

// confess says how many lines were dropped; false until there is credit for more than a longest line: one count for a
// gap, not a count for each line. The logs are locked.
func (s *logs) confess() bool {
	if s.credit <= maxLine {
		return false
	}
	said := fmt.Sprintf("%d lines were dropped here: more is logged than is taken", s.dropped)
	if s.dropped == 1 {
		said = "1 line was dropped here: more is logged than is taken"
	}
	if !s.send(nil, "stderr", "warning", said) {
		return false
	}
	s.dropped = 0
	return true
}

// send queues one line. The logs are locked.
func (s *logs) send(c *call, stream, level, text string) bool {
	var inv *string
	if c != nil {
		inv = &c.id
	}
	payload, err := json.Marshal(struct {
		Invocation *string `json:"inv"`
		Stream     string  `json:"stream"`
		Time       int64   `json:"t"`
		Level      string  `json:"level"`
		Text       string  `json:"text"`
	}{inv, stream, time.Now().UnixMilli(), level, text})
	if err != nil || int64(len(payload)) > s.credit {
		return false
	}
	s.credit -= int64(len(payload))
	s.l.out.frame(kLog, 0, 0, payload)
	return true
}

func cut(text string) string {
	if len(text) <= maxLine {
		return text
	}
	end := maxLine
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
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
	h.logs.emit(c, "log", levelName(record.Level), text)
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
		return "warning"
	}
	return "error"
}
