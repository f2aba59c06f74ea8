package routes

import (
	"sync"
	"testing"
	"time"
)

// slowKernel is a kernel in memory that does not answer before it is let go.
type slowKernel struct {
	*fakeKernel
	once    sync.Once
	writing chan struct{} // closed when something is to be written
	let     chan struct{}
}

func (k *slowKernel) write(reqs []request) error {
	k.once.Do(func() { close(k.writing) })
	<-k.let
	return k.fakeKernel.write(reqs)
}

// TestPendingUntilWritten: what is being written is pending, however long the
// kernel takes, since whoever waits for it takes away what the routes of before
// lead over.
func TestPendingUntilWritten(t *testing.T) {
	modes(t, func(t *testing.T, o Options) {
		k := &slowKernel{fakeKernel: newFakeKernel(), writing: make(chan struct{}), let: make(chan struct{})}
		o.Resync = time.Hour
		tb := newTable(o, k)
		run(t, tb)
		letGo := sync.OnceFunc(func() { close(k.let) })
		t.Cleanup(letGo) // before the table is closed, which waits for it

		rs := parse(t, node)
		tb.Set(ClassLearned, rs)
		select {
		case <-k.writing:
		case <-time.After(patience):
			t.Fatal("nothing is written")
		}
		if got := tb.Status(); got.Pending != len(rs) || got.Installed[ClassLearned] != 0 {
			t.Errorf("while %d routes are being written %d are pending and %d installed", len(rs), got.Pending, got.Installed[ClassLearned])
		}
		letGo()
		wait(t, tb, rs...)
		eventually(t, patience, "nothing is pending", func() bool { return tb.Status().Pending == 0 })
		if got := tb.Status().Installed[ClassLearned]; got != len(rs) {
			t.Errorf("%d routes are installed, want %d", got, len(rs))
		}
	})
}
