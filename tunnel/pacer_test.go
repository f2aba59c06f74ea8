package tunnel

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer()
		defer p.stop()
		taken := func() bool {
			select {
			case <-p.c:
				return true
			default:
				return false
			}
		}
		// A quarrel: for ten seconds every signal causes the next.
		count := 0
		for range 10000 {
			p.give()
			if taken() {
				count++
			}
			time.Sleep(time.Millisecond)
		}
		if most := signalBurst + 10*signalRate + 1; count < most-2 || count > most {
			t.Errorf("%d signals, not about %d", count, most)
		}
		time.Sleep(time.Minute)
		taken()
		p.give()
		if !taken() {
			t.Error("after a pause the signal does not come at once")
		}
		p.give()
		p.clear()
		time.Sleep(time.Minute)
		if taken() {
			t.Error("a signal that was taken back came")
		}
	})
}
