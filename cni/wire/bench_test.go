package wire

import (
	"fmt"
	"testing"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// A pod's link made; its deletion, which waits in the kernel, is not counted.
func BenchmarkAttach(b *testing.B) {
	for _, addresses := range [][]string{{"172.25.0.130"}, {"fd00:25::82"}, {"172.25.0.130", "fd00:25::82"}} {
		b.Run(fmt.Sprint(addresses), func(b *testing.B) {
			w, s := newWirer(b, netnstest.New(b)), spec("one", addresses...)
			ns := open(b, w, netnstest.New(b))
			for b.Loop() {
				attach(b, w, ns, s)
				b.StopTimer()
				if _, _, err := w.Doom(b.Context(), s.ContainerID, s.Interface); err != nil {
					b.Fatal(err)
				}
				if err := w.Sweep(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
