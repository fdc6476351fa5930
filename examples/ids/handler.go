// Sortable ids: GET /?count=3
package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/google/uuid"
)

// Handler answers with a JSON list of UUIDv7s.
func Handler(w http.ResponseWriter, r *http.Request) {
	count := 1
	if text := r.URL.Query().Get("count"); text != "" {
		var err error
		if count, err = strconv.Atoi(text); err != nil || count < 1 || count > 100 {
			http.Error(w, "count is to be a number from 1 to 100", http.StatusBadRequest)
			return
		}
	}
	ids := make([]string, count)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7()).String()
	}
	slog.InfoContext(r.Context(), "made ids", "count", count)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(ids)
}
