package tunnel

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// pacer gives signals: at once, but a few in a second when they keep coming, so
// that a quarrel with another program over a device does not take the processor.
type pacer struct {
	c    chan struct{}
	rate *rate.Limiter

	mu      sync.Mutex
	timer   *time.Timer // gives a signal that has to wait
	stopped bool
}

const (
	signalRate  = 5 // in a second
	signalBurst = 20
)

func newPacer() *pacer {
	return &pacer{c: make(chan struct{}, 1), rate: rate.NewLimiter(signalRate, signalBurst)}
}

// give signals, now or in a while; several until then are one.
func (p *pacer) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil || p.stopped || len(p.c) > 0 {
		return
	}
	if wait := p.rate.Reserve().Delay(); wait > 0 {
		p.timer = time.AfterFunc(wait, p.late)
		return
	}
	p.send()
}

func (p *pacer) late() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	if !p.stopped {
		p.send()
	}
}

func (p *pacer) send() {
	select {
	case p.c <- struct{}{}:
	default:
	}
}

// clear takes back the signals that nobody has taken yet.
func (p *pacer) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil && p.timer.Stop() {
		p.timer = nil
	}
	select {
	case <-p.c:
	default:
	}
}

func (p *pacer) stop() {
	p.clear()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
}
