package untiring

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"
)

// TestFreshToken: a token that was renewed is shown in the first request after the
// one for which the old one was refused.
func TestFreshToken(t *testing.T) {
	var good atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+good.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	good.Store("first")
	// As rest.InClusterConfig returns it.
	c, err := rest.HTTPClientFor(WithFreshToken(&rest.Config{Host: server.URL, BearerToken: "first", BearerTokenFile: file}))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{http.StatusOK, http.StatusUnauthorized, http.StatusUnauthorized, http.StatusUnauthorized, http.StatusOK} {
		switch i {
		case 1:
			good.Store("second") // the first has run out
		case 3:
			write("second")
		}
		res, err := c.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Fatalf("request %d: %s, want %d", i+1, res.Status, want)
		}
	}
	if cfg := WithFreshToken(&rest.Config{BearerToken: "fixed"}); cfg.BearerToken != "fixed" || cfg.WrapTransport != nil {
		t.Errorf("a token without a file became %v", cfg)
	}
}
