package agent

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/godwit-net/godwit/ipam"
)

// TestDrain follows a node through a drain, one step after the other.
func TestDrain(t *testing.T) {
	usage := func(cidr string, allocated, own int) ipam.BlockUsage {
		return ipam.BlockUsage{Block: ipam.Block{CIDR: netip.MustParsePrefix(cidr)}, Allocated: allocated, Own: own}
	}
	const first, second = "172.25.0.0/26", "172.25.0.64/26"
	var d drain
	for _, step := range []struct {
		what     string
		at       time.Duration
		draining bool
		pods     [2]int // in the two blocks
		own      int    // addresses of the node in the second
		want     []string
		more     time.Duration
		drained  bool
	}{
		{"no drain", 0, false, [2]int{2, 0}, 0, []string{first, second}, 0, false},
		{"the drain begins: others are asked to prefer other ways", 10, true, [2]int{2, 0}, 0, []string{first, second}, drainWait, false},
		{"not all the time is over", 12, true, [2]int{2, 0}, 0, []string{first, second}, drainWait - 2*time.Second, false},
		{"the empty block goes, that with pods stays", 15, true, [2]int{2, 0}, 0, []string{first}, 0, false},
		{"a pod comes and its block with it", 16, true, [2]int{2, 1}, 0, []string{first, second}, 0, false},
		{"the first block's pods are gone", 17, true, [2]int{0, 1}, 0, []string{second}, 0, false},
		{"all pods are gone", 18, true, [2]int{0, 0}, 0, nil, 0, true},
		{"an address of the node's own keeps its block", 19, true, [2]int{0, 0}, 1, []string{second}, 0, true},
		{"the drain ends", 20, false, [2]int{0, 0}, 0, []string{first, second}, 0, false},
		{"another one begins", 30, true, [2]int{0, 0}, 0, []string{first, second}, drainWait, true},
	} {
		blocks := []ipam.BlockUsage{usage(first, step.pods[0], 0), usage(second, step.pods[1], step.own)}
		now := time.Unix(1000, 0).Add(step.at * time.Second)
		announce, more := d.advertised(step.draining, blocks, now)
		var got []string
		for _, p := range announce {
			got = append(got, p.String())
		}
		if diff := cmp.Diff(step.want, got, cmpopts.EquateEmpty()); diff != "" || more != step.more {
			t.Errorf("%s: more after %v, want %v; announced (- want, + got):\n%s", step.what, more, step.more, diff)
		}
		if got := drained(step.draining, blocks); got != step.drained {
			t.Errorf("%s: drained: %t, want %t", step.what, got, step.drained)
		}
	}
}

// TestDrainFound starts an agent on a node that is drained already.
func TestDrainFound(t *testing.T) {
	var d drain
	blocks := []ipam.BlockUsage{{Block: ipam.Block{CIDR: netip.MustParsePrefix("172.25.0.0/26")}}}
	if announce, more := d.advertised(true, blocks, time.Unix(1000, 0)); len(announce) > 0 || more != 0 {
		t.Errorf("announces %v, and more after %v; want nothing", announce, more)
	}
}
