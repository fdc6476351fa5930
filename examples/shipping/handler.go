// Prices of parcels, as a JSON API with chi for its routes: GET /zones, GET /zones/{zone}, POST /quotes.
package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

const bodyMax = 16 << 10 // bytes

// zone is where a parcel goes, and what it costs to send one there: amounts are in cents.
type zone struct {
	Name      string   `json:"name"`
	Countries []string `json:"countries"`
	Base      int      `json:"base"`
	PerKg     int      `json:"per_kg"`
	MaxGrams  int      `json:"max_grams"`
}

type quoteRequest struct {
	Zone  string `json:"zone"`
	Grams int    `json:"grams"`
}

type quote struct {
	Zone  string `json:"zone"`
	Grams int    `json:"grams"`
	Cents int    `json:"cents"`
}

//go:embed zones.json
var zonesJSON []byte

// Package variables are made when an instance starts: once, not with every request.
var (
	zones  = mustZones(zonesJSON)
	router = newRouter()
)

// Handler is what Hearth calls: a router is an http.Handler like any other.
func Handler(w http.ResponseWriter, r *http.Request) {
	router.ServeHTTP(w, r)
}

func newRouter() http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.GetHead) // HEAD is answered wherever GET is
	r.NotFound(func(w http.ResponseWriter, req *http.Request) {
		fail(w, http.StatusNotFound, "not_found", "there is no "+req.URL.Path)
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if r.Match(chi.NewRouteContext(), method, req.URL.Path) {
				w.Header().Add("Allow", method)
			}
		}
		fail(w, http.StatusMethodNotAllowed, "method_not_allowed", "use "+strings.Join(w.Header()["Allow"], " or "))
	})
	r.Get("/", listRoutes)
	r.Get("/zones", listZones)
	r.Get("/zones/{zone}", showZone)
	r.Post("/quotes", makeQuote)
	return r
}

func listRoutes(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, map[string]any{"routes": []string{"GET /zones", "GET /zones/{zone}", "POST /quotes"}})
}

func listZones(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, map[string]any{"zones": zones})
}

func showZone(w http.ResponseWriter, r *http.Request) {
	found, ok := find(chi.URLParam(r, "zone"))
	if !ok {
		fail(w, http.StatusNotFound, "unknown_zone", "GET /zones lists those there are")
		return
	}
	reply(w, http.StatusOK, found)
}

func makeQuote(w http.ResponseWriter, r *http.Request) {
	var asked quoteRequest
	if !decode(w, r, &asked) {
		return
	}
	to, ok := find(asked.Zone)
	switch {
	case !ok:
		fail(w, http.StatusUnprocessableEntity, "unknown_zone", "GET /zones lists those there are")
		return
	case asked.Grams < 1 || asked.Grams > to.MaxGrams:
		fail(w, http.StatusUnprocessableEntity, "bad_weight",
			fmt.Sprintf("grams is to be from 1 to %d for zone %s", to.MaxGrams, to.Name))
		return
	}
	kilos := (asked.Grams + 999) / 1000 // every kilogram begun counts
	made := quote{to.Name, asked.Grams, to.Base + kilos*to.PerKg}
	slog.InfoContext(r.Context(), "quote", "zone", made.Zone, "grams", made.Grams, "cents", made.Cents)
	reply(w, http.StatusOK, made)
}

func find(name string) (zone, bool) {
	for _, z := range zones {
		if z.Name == name {
			return z, true
		}
	}
	return zone{}, false
}

// decode reads the request's body as one JSON object of exactly the shape of `into`. When it returns false it has answered.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, "not_json", "send Content-Type: application/json")
		return false
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyMax))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil && decoder.Decode(&struct{}{}) != io.EOF {
		err = errors.New("something follows the object")
	}
	if err != nil {
		failDecoding(w, err)
		return false
	}
	return true
}

func failDecoding(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &tooLarge):
		fail(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body is longer than %d bytes", bodyMax))
	case errors.As(err, &wrongType):
		what := cmp.Or(wrongType.Field, "the body")
		fail(w, http.StatusBadRequest, "bad_json", fmt.Sprintf("%s is not to be %s", what, wrongType.Value))
	case errors.Is(err, io.EOF):
		fail(w, http.StatusBadRequest, "bad_json", "the body is empty")
	default:
		fail(w, http.StatusBadRequest, "bad_json", strings.TrimPrefix(err.Error(), "json: "))
	}
}

func fail(w http.ResponseWriter, status int, code, message string) {
	reply(w, status, map[string]any{"error": map[string]string{"code": code, "message": message}})
}

func reply(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // it fails when the client has left: nobody to tell
}

func mustZones(text []byte) []zone {
	var found []zone
	if err := json.Unmarshal(text, &found); err != nil {
		panic(fmt.Errorf("zones.json: %w", err))
	}
	return found
}
