package agent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	cniapi "github.com/godwit-net/godwit/api/cni"
	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/apitest"
)

// TestBoots boots a node that was off for so long that its block was freed and
// claimed by another one, and attaches a pod at once. The pod has no address of that
// block, if only the API server says in time whose it is; else it starts all the same.
func TestBoots(t *testing.T) {
	t.Parallel()
	cfg := apitest.Start(t)
	for _, tt := range []struct {
		name, node, pool string
		latency          time.Duration // of each request
		known            bool          // the API server says in time whose the block is
	}{
		{"an API that answers", "n1", "172.25.0.0/20", 100 * time.Millisecond, true},
		{"a slow API", "n2", "172.26.0.0/20", 5 * time.Second, false},
		{"no API", "n3", "172.27.0.0/20", away, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			way := &atomic.Int64{}
			slow := rest.CopyConfig(cfg)
			slow.Wrap(func(next http.RoundTripper) http.RoundTripper { return delayed{next, way} })
			b := newBench(t, slow, tt.node)
			b.plan(nil, planned(tt.node, tt.pool))
			stop := b.start()
			b.serves()
			first := b.attach("before")
			stop()
			block := moveBlock(t, apitest.Client(t, cfg), tt.node)
			if !block.Contains(first) {
				t.Fatalf("the node's first pod had %s, and its block was %s", first, block)
			}

			way.Store(int64(tt.latency))
			began := time.Now()
			b.restart(true)
			got := b.attach("after")
			t.Logf("the first pod has its address %v after the start", time.Since(began).Round(time.Millisecond))
			if block.Contains(got) == tt.known {
				t.Errorf("the first pod has %s; the block that was the node's is %s", got, block)
			}
		})
	}
}

// away is the latency of an API server that can't be reached.
const away = time.Duration(-1)

// delayed is a way to the API server that can be made slow, or closed.
type delayed struct {
	next    http.RoundTripper
	latency *atomic.Int64 // of each request, as a Duration
}

func (d delayed) RoundTrip(r *http.Request) (*http.Response, error) {
	latency := time.Duration(d.latency.Load())
	if latency == away {
		return nil, errors.New("connection refused")
	}
	select {
	case <-time.After(latency):
		return d.next.RoundTrip(r)
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// moveBlock makes the one block of a node another one's, as when the node was off for
// so long that it was taken for gone.
func moveBlock(t *testing.T, api client.Client, node string) netip.Prefix {
	t.Helper()
	var blocks v1alpha1.IPBlockList
	if err := api.List(t.Context(), &blocks, client.MatchingLabels{v1alpha1.NodeLabel: node}); err != nil || len(blocks.Items) != 1 {
		t.Fatalf("the node has %d blocks (%v), want one", len(blocks.Items), err)
	}
	b := &blocks.Items[0]
	theirs := &v1alpha1.IPBlock{
		ObjectMeta: metav1.ObjectMeta{Name: b.Name, Labels: map[string]string{v1alpha1.NodeLabel: "another"}},
		Spec:       v1alpha1.IPBlockSpec{CIDR: b.Spec.CIDR, Pool: b.Spec.Pool, NodeName: "another"},
	}
	if err := errors.Join(api.Delete(t.Context(), b), api.Create(t.Context(), theirs)); err != nil {
		t.Fatal(err)
	}
	return netip.MustParsePrefix(b.Spec.CIDR)
}

// attach attaches a container as a runtime does, which tries again if it is told to,
// and returns its address.
func (b *bench) attach(container string) netip.Addr {
	b.Helper()
	var addr netip.Addr
	b.until("ADD", func() error {
		r, err := b.call(cniapi.CNIService.Add, container)
		if err != nil {
			return err
		}
		if e := r.GetError(); e != nil {
			return fmt.Errorf("%s: %s", e.GetMsg(), e.GetDetails())
		}
		var result struct {
			IPs []struct {
				Address netip.Prefix `json:"address"`
			} `json:"ips"`
		}
		if err := json.Unmarshal(r.GetResult(), &result); err != nil {
			return err
		}
		if len(result.IPs) != 1 {
			return fmt.Errorf("the result has not one address: %s", r.GetResult())
		}
		addr = result.IPs[0].Address.Addr()
		return nil
	})
	return addr
}
