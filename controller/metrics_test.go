package controller

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/godwit-net/godwit/controller/plan"
)

func TestPoolMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	if err := newPoolMetrics().register(r); err != nil { // of a controller before
		t.Fatal(err)
	}
	m := newPoolMetrics()
	if err := m.register(r); err != nil {
		t.Fatal(err)
	}
	m.set(map[string]plan.Usage{"pods": {Blocks: 3, Capacity: 4, Allocated: 14, Addresses: 256}})
	const want = `
# HELP godwit_pool_addresses How many addresses the pool has.
# TYPE godwit_pool_addresses gauge
godwit_pool_addresses{pool="pods"} 256
# HELP godwit_pool_addresses_allocated How many addresses of the pool pods hold, as nodes last reported.
# TYPE godwit_pool_addresses_allocated gauge
godwit_pool_addresses_allocated{pool="pods"} 14
# HELP godwit_pool_blocks How many blocks the pool has.
# TYPE godwit_pool_blocks gauge
godwit_pool_blocks{pool="pods"} 4
# HELP godwit_pool_blocks_claimed How many blocks of the pool nodes have claimed.
# TYPE godwit_pool_blocks_claimed gauge
godwit_pool_blocks_claimed{pool="pods"} 3
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(r); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
