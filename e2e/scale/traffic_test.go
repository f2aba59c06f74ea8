package scale

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/client-go/rest"
)

// TestTraffic has a client make requests and read a watch in small pieces.
func TestTraffic(t *testing.T) {
	const events = `{"type":"ADDED","object":{"kind":"NodeNetwork"}}
{"type":"BOOKMARK","object":{"kind":"NodeNetwork"}}
{"type":"MODIFIED","object":{"kind":"NodeNetwork"}}
`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") == "true" {
			_, _ = io.WriteString(w, events)
		}
	}))
	defer server.Close()
	var m meter
	c, err := rest.HTTPClientFor(measured(&rest.Config{Host: server.URL, Dial: (&net.Dialer{}).DialContext}, &m))
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	for _, path := range []string{"/a", "/b?watch=true", "/c?watch=false"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		for b := make([]byte, 7); ; {
			if _, err := res.Body.Read(b); err != nil {
				break
			}
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	got := m.read()
	if got.Sent < 100 || got.Received < int64(len(events)) {
		t.Errorf("sent %d and received %d bytes", got.Sent, got.Received)
	}
	got.Sent, got.Received = 0, 0
	if want := (Traffic{Requests: 2, Watches: 1, Events: 2, Marks: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}
