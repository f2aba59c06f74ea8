package others

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-net/godwit/internal/netnstest"
)

// TestLook leaves on a node what other networks leave, and takes it away again as
// the messages say.
func TestLook(t *testing.T) {
	ns := netnstest.New(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "10-godwit.conflist")
	look := func() []Find {
		t.Helper()
		var finds []Find
		ns.Do(func() {
			var err error
			if finds, err = Look(config); err != nil {
				t.Fatal(err)
			}
		})
		return finds
	}
	run := func(command string) {
		t.Helper()
		words := strings.Fields(command)
		ns.Run(words[0], words[1:]...)
	}
	write := func(name string) func() {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What is Godwit's, the node's or kube-proxy's, and what comes after, is no find.
	write("10-godwit.conflist")
	write("87-podman.conflist")
	write("00-notes.txt")
	run("ip link add eth0 type bridge")
	run("ip link add godwit.vxlan type bridge")
	run("ip link add docker0 type bridge")
	run("ip link set eth0 up")
	run("ip route add 192.0.2.0/24 dev eth0 proto 71")
	run("ip route add 198.51.100.0/24 dev eth0 proto 186")
	run("nft add table inet godwit")
	run("nft add table ip kube-proxy")
	run("nft add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; policy accept ; }")
	run("nft add chain ip kube-proxy filter-input { type filter hook input priority 0 ; policy drop ; }")
	if finds := look(); len(finds) > 0 {
		t.Fatalf("on a node with Godwit alone there is %+v", finds)
	}

	for _, c := range []struct {
		name   string
		leave  []string
		remove []string
		file   string
		reason string
		says   []string
	}{
		{
			name: "a configuration before ours", file: "05-cilium.conflist",
			reason: ReasonConfig, says: []string{"05-cilium.conflist in " + dir, "before Godwit's 10-godwit.conflist", "remove it"},
		},
		{
			name:  "Calico's links",
			leave: []string{"ip link add cali1 type bridge", "ip link add cali2 type bridge", "ip link add cali3 type bridge", "ip link add vxlan.calico type bridge"},
			remove: []string{
				"ip link delete cali1", "ip link delete cali2", "ip link delete cali3", "ip link delete vxlan.calico",
			},
			reason: ReasonLinks, says: []string{"links of Calico: cali1, cali2, cali3 and 1 more", "ip link delete"},
		},
		{
			name: "Flannel's links", leave: []string{"ip link add flannel.1 type bridge", "ip link add cni0 type bridge"},
			remove: []string{"ip link delete flannel.1", "ip link delete cni0"},
			reason: ReasonLinks, says: []string{"links of Flannel: flannel.1, cni0"},
		},
		{
			name: "Cilium's links", leave: []string{"ip link add cilium_host type bridge"}, remove: []string{"ip link delete cilium_host"},
			reason: ReasonLinks, says: []string{"links of Cilium: cilium_host"},
		},
		{
			name: "BIRD's routes", leave: []string{"ip route add 203.0.113.64/26 dev eth0 proto bird"}, remove: []string{"ip route flush proto 12"},
			reason: ReasonRoutes, says: []string{"routes of BIRD", "to 203.0.113.64/26", "ip route flush proto 12"},
		},
		{
			name: "Felix's routes", leave: []string{"ip route add 203.0.113.1/32 dev eth0 proto 80"}, remove: []string{"ip route flush proto 80"},
			reason: ReasonRoutes, says: []string{"Calico's Felix", "to 203.0.113.1/32", "ip route flush proto 80"},
		},
		{
			name: "Calico's chains", leave: []string{"nft add table ip filter", "nft add chain ip filter cali-FORWARD"}, remove: []string{"nft delete table ip filter"},
			reason: ReasonFirewall, says: []string{"rules of Calico: chain cali-FORWARD of table ip filter"},
		},
		{
			name: "Flannel's table", leave: []string{"nft add table ip flannel-ipv4", "nft add chain ip flannel-ipv4 postrtg"}, remove: []string{"nft delete table ip flannel-ipv4"},
			reason: ReasonFirewall, says: []string{"rules of Flannel: chain postrtg of table ip flannel-ipv4"},
		},
		{
			name:   "a firewall that drops",
			leave:  []string{"nft add table ip filter", "nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }"},
			remove: []string{"nft delete table ip filter"},
			reason: ReasonForward, says: []string{"chain FORWARD of table ip filter drops", "iptables -P FORWARD ACCEPT"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			remove := func() {}
			if c.file != "" {
				remove = write(c.file)
			}
			for _, command := range c.leave {
				run(command)
			}
			finds := look()
			if len(finds) != 1 || finds[0].Reason != c.reason {
				t.Fatalf("found %+v, want one of %s", finds, c.reason)
			}
			for _, says := range c.says {
				if !strings.Contains(finds[0].Message, says) {
					t.Errorf("%q does not say %q", finds[0].Message, says)
				}
			}
			remove()
			for _, command := range c.remove {
				run(command)
			}
			if finds := look(); len(finds) > 0 {
				t.Errorf("after it was taken away there is %+v", finds)
			}
		})
	}
}
