package routes

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// parse reads routes as `ip route` writes them, one a line.
func parse(t testing.TB, text string) []Route {
	t.Helper()
	var rs []Route
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		var r Route
		if words[0] == "blackhole" {
			r.Blackhole = true
			words = words[1:]
		}
		r.Dst = prefix(t, words[0])
		for i := 1; i < len(words); i++ {
			next := func() string {
				if i++; i >= len(words) {
					t.Fatalf("route %q ends too early", line)
				}
				return words[i]
			}
			last := len(r.NextHops) - 1
			switch words[i] {
			case "nexthop":
			case "via":
				gw := next()
				if gw == "inet6" {
					gw = next()
				}
				r.NextHops = append(r.NextHops, NextHop{Gateway: netip.MustParseAddr(gw)})
			case "dev":
				if last < 0 {
					r.Link = next()
				} else {
					r.NextHops[last].Link = next()
				}
			case "onlink":
				r.NextHops[last].OnLink = true
			case "scope", "metric":
				next()
			default:
				t.Fatalf("route %q: what is %q?", line, words[i])
			}
		}
		rs = append(rs, r)
	}
	return rs
}

func prefix(t testing.TB, s string) netip.Prefix {
	t.Helper()
	if p, err := netip.ParsePrefix(s); err == nil {
		return p
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return netip.PrefixFrom(a, a.BitLen())
}

var noise = regexp.MustCompile(` (nhid \d+|proto \S+|pref medium|weight 1|error -?\d+|metric 1024|linkdown)`)

// show is what `ip route` shows of ours, without what does not matter here,
// sorted.
func show(ns *netnstest.NS, args ...string) string {
	if len(args) == 0 {
		args = []string{"proto", fmt.Sprint(Protocol)}
	}
	var lines []string
	for _, family := range []string{"-4", "-6"} {
		for line := range strings.Lines(ns.Run("ip", append([]string{"-o", family, "route", "show"}, args...)...)) {
			line = strings.TrimSpace(strings.ReplaceAll(line, `\`, " "))
			if strings.HasPrefix(line, "blackhole") { // IPv6 has them on lo
				line = strings.ReplaceAll(line, " dev lo", "")
			}
			lines = append(lines, tidy(line))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// tidy writes a route's line in one way.
func tidy(line string) string {
	line = strings.Join(strings.Fields(noise.ReplaceAllString(line+" ", " ")), " ")
	head, hops, ok := strings.Cut(line, " nexthop ")
	if !ok {
		return line
	}
	parts := strings.Split(hops, " nexthop ")
	slices.Sort(parts)
	if len(parts) == 1 {
		return head + " " + parts[0]
	}
	return head + " nexthop " + strings.Join(parts, " nexthop ")
}

// tidyAll brings a literal of a test into the form of show.
func tidyAll(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = tidy(strings.TrimSpace(line)); line != "" {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// cluster is a namespace with an underlay link, gw0 (peer gwx0), a second one,
// gw1, and two pods' links.
func cluster(t testing.TB) *netnstest.NS {
	t.Helper()
	ns := netnstest.New(t)
	for _, l := range []string{"gw0", "gw1", "gwpod0", "gwpod1"} {
		ns.Run("ip", "link", "add", l, "type", "veth", "peer", "name", strings.Replace(l, "gw", "gwx", 1))
		ns.Run("ip", "link", "set", strings.Replace(l, "gw", "gwx", 1), "up")
		ns.Run("ip", "link", "set", l, "up")
	}
	ns.Run("ip", "addr", "add", "10.211.55.101/24", "dev", "gw0")
	ns.Run("ip", "addr", "add", "10.212.0.101/24", "dev", "gw1")
	ns.Run("ip", "addr", "add", "fd00:55::101/64", "dev", "gw0", "nodad")
	ns.Run("ip", "addr", "add", "fd00:56::101/64", "dev", "gw1", "nodad")
	return ns
}

// expect waits for the kernel to show the routes.
func expect(t testing.TB, ns *netnstest.NS, want string) {
	t.Helper()
	want = tidyAll(want)
	var got string
	for deadline := now().Add(patience); ; {
		if got = show(ns); got == want {
			return
		}
		if now().After(deadline) {
			t.Fatalf("the kernel has\n%s\nwhere\n%s\nis desired", got, want)
		}
	}
}
