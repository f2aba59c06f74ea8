package routes

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// interrupted is a kernel that something happens in after the table looked.
type interrupted struct {
	*netlinkKernel
	then atomic.Pointer[func()]
}

func (k *interrupted) events() ([]event, error) {
	evs, err := k.netlinkKernel.events()
	if then := k.then.Swap(nil); then != nil {
		(*then)()
	}
	return evs, err
}

// Who made a link, set it up and then asks for a route over it gets the route,
// even if the table had just looked for news of links.
func TestRouteOverALinkJustMade(t *testing.T) {
	ns := netnstest.New(t)
	var k *interrupted
	tb := startOn(t, ns, Options{}, func(inner *netlinkKernel) kernel {
		k = &interrupted{netlinkKernel: inner}
		return k
	})
	settle(t, tb)
	r := Route{Dst: netip.MustParsePrefix("10.1.0.1/32"), Link: "gw0"}
	asked := make(chan error)
	then := func() {
		ns.Run("ip", "link", "add", "gw0", "type", "veth", "peer", "name", "gw0p")
		ns.Run("ip", "link", "set", "gw0", "up")
		tb.Update(ClassPod, []Route{r}, nil)
		go func() { asked <- waitErr(tb, r) }()
	}
	k.then.Store(&then)
	k.wake()
	if err := <-asked; err != nil {
		t.Error(err)
	}
}
