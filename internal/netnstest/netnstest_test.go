package netnstest

import (
	"strings"
	"testing"
)

func TestNamespacesAreApart(t *testing.T) {
	a, b := New(t), New(t)
	a.Run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
	if got := a.Run("ip", "-br", "link"); !strings.Contains(got, "v0") {
		t.Errorf("the link is missing where it was made:\n%s", got)
	}
	if got := b.Run("ip", "-br", "link"); strings.Contains(got, "v0") {
		t.Errorf("the link shows in another namespace:\n%s", got)
	}
}
