package controller

import (
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-net/godwit/controller/plan"
)

// poolMetrics is a prometheus.Collector of how full pools are, as last counted.
type poolMetrics struct {
	claimed, blocks, allocated, addresses *prometheus.Desc

	mu     sync.Mutex
	usages map[string]plan.Usage
}

func newPoolMetrics() *poolMetrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("godwit_pool_"+name, help, []string{"pool"}, nil)
	}
	return &poolMetrics{
		claimed:   desc("blocks_claimed", "How many blocks of the pool nodes have claimed."),
		blocks:    desc("blocks", "How many blocks the pool has."),
		allocated: desc("addresses_allocated", "How many addresses of the pool pods hold, as nodes last reported."),
		addresses: desc("addresses", "How many addresses the pool has."),
	}
}

// register makes the metrics those of r, in the place of another controller's.
func (m *poolMetrics) register(r prometheus.Registerer) error {
	err := r.Register(m)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		r.Unregister(there.ExistingCollector)
		err = r.Register(m)
	}
	if err != nil {
		return fmt.Errorf("register the metrics of pools: %w", err)
	}
	return nil
}

func (m *poolMetrics) set(usages map[string]plan.Usage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.usages = usages
}

// Describe implements prometheus.Collector.
func (m *poolMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.claimed, m.blocks, m.allocated, m.addresses} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *poolMetrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, u := range m.usages {
		for d, value := range map[*prometheus.Desc]int64{m.claimed: u.Blocks, m.blocks: u.Capacity, m.allocated: u.Allocated, m.addresses: u.Addresses} {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), name)
		}
	}
}
