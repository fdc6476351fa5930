//go:build go1.21

package hearthshim

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
)

const traceFrames = 64

// failure is an `error` frame.
type failure struct {
	Type      string `json:"type"`
	Message   string `json:"message"`
	Traceback string `json:"traceback"`
}

// aborted: the handler panicked with http.ErrAbortHandler, which is no error of its own.
var aborted = &failure{Type: "http.ErrAbortHandler"}

func badResponse(format string, values ...interface{}) *failure {
	message := fmt.Sprintf(format, values...)
	return &failure{"BadResponse", message, "BadResponse: " + message}
}

// failureOf describes a panic; called in the deferred function that recovered it, so that its stack is still there.
func failureOf(recovered interface{}) *failure {
	if recovered == http.ErrAbortHandler {
		return aborted
	}
	told := &failure{Type: fmt.Sprintf("%T", recovered), Message: fmt.Sprint(recovered)}
	if recovered == nil {
		told.Type, told.Message = "runtime.Goexit", "the handler called runtime.Goexit"
	}
	if len(told.Message) > 16<<10 {
		told.Message = told.Message[:16<<10]
	}
	trace := strings.Builder{}
	fmt.Fprintf(&trace, "panic: %s\n", told.Message)
	pcs := make([]uintptr, traceFrames)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	inPanic := true // the runtime's own frames come first
	for more := true; more; {
		var frame runtime.Frame
		frame, more = frames.Next()
		inPanic = inPanic && strings.HasPrefix(frame.Function, "runtime.")
		if inPanic || frame.Function == "runtime.goexit" || strings.HasPrefix(frame.Function, shimPackage) {
			continue
		}
		fmt.Fprintf(&trace, "\n%s\n\t%s:%d", frame.Function, relative(frame.File), frame.Line)
	}
	told.Traceback = trace.String()
	return told
}

// shimPackage is this package's own path, by which its frames are left out of tracebacks.
var shimPackage = func() string {
	pc, _, _, _ := runtime.Caller(0)
	name := runtime.FuncForPC(pc).Name()
	return name[:strings.LastIndex(name, "/hearthshim.")+len("/hearthshim.")]
}()
