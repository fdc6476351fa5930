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
	count, err := strconv.Atoi(r.URL.Query().Get("count"))
	if err != nil || count < 1 || count > 100 {
		count = 1
	}
	ids := make([]string, count)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7()).String()
	}
	slog.InfoContext(r.Context(), "made ids", "count", count)
	w.Header().Set("content-type", "application/json")
	json.NewEncoder(w).Encode(ids)
}
