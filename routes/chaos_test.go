package routes

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// moody is a kernel in memory some of whose answers are refusals, and which
// loses notifications.
type moody struct {
	*fakeKernel
	mu    sync.Mutex
	rnd   *rand.Rand
	moods float64 // how often it refuses
}

func (k *moody) refuses() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rnd.Float64() < k.moods
}

func (k *moody) calm() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.moods = 0
}

func (k *moody) write(reqs []request) error {
	if k.refuses() {
		_ = k.fakeKernel.write(reqs[:k.rnd.IntN(len(reqs)+1)])
		return unix.ENOBUFS
	}
	for i := range reqs {
		if k.refuses() {
			reqs[i].err = unix.ENOMEM
			continue
		}
		if err := k.fakeKernel.write(reqs[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (k *moody) events() ([]event, error) {
	evs, err := k.fakeKernel.events()
	if len(evs) > 0 && k.refuses() {
		return evs[:k.rnd.IntN(len(evs))], errOverflow
	}
	return evs, err
}

func (k *moody) snapshot() (snapshot, error) {
	if k.refuses() {
		return snapshot{}, unix.EBUSY
	}
	return k.fakeKernel.snapshot()
}

// TestChaos does everything at once to a kernel in a bad mood. When it has calmed
// down, all must be as was last desired.
func TestChaos(t *testing.T) {
	modes(t, func(t *testing.T, o Options) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		k := &moody{fakeKernel: newFakeKernel(), rnd: rand.New(rand.NewPCG(seed, 1)), moods: 0.1}
		rnd := rand.New(rand.NewPCG(seed, 2))
		o.Resync = time.Hour
		tb := newTable(o, k)
		run(t, tb)
		syncAll(tb)
		var want []Route
		for range 300 {
			switch rnd.IntN(5) {
			case 0, 1:
				want = parse(t, states[rnd.IntN(len(states))])
				tb.Set(ClassLearned, want)
			case 2:
				k.setLink([]string{"gw0", "gw1", "gwpod0"}[rnd.IntN(3)], rnd.IntN(2) == 0)
			case 3:
				if len(want) > 0 {
					k.hand(want[rnd.IntN(len(want))].Dst.String())
				}
			case 4:
				_ = tb.Status()
				time.Sleep(time.Millisecond)
			}
		}
		for _, l := range []string{"gw0", "gw1", "gwpod0"} {
			k.setLink(l, false) // else a network would be there twice
			k.setLink(l, true)
		}
		k.calm()
		seen(t, fakeBed{k.fakeKernel}, render(want))
		eventually(t, patience, "nothing is reported", func() bool {
			s := tb.Status()
			return len(s.Failed) == 0 && s.Installed[ClassLearned] == len(want)
		})
		tb.Set(ClassLearned, nil)
		eventually(t, patience, "nothing is left", func() bool {
			return k.show() == "" && fakeBed{k.fakeKernel}.objects() == 0
		})
	})
}
