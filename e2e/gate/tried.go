package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/godwit-net/godwit/e2e/namespace"
)

// table counts who tries to connect, also while nobody listens.
const table = "gate"

// watchTries has the kernel count the connections that are tried to a port.
func watchTries(netns string, port uint16) error {
	return nft(netns, fmt.Sprintf(`add table inet %[1]s
flush table inet %[1]s
add set inet %[1]s tried { type ipv4_addr; flags dynamic; size 4096; counter; }
add set inet %[1]s silent { type ipv4_addr; }
add chain inet %[1]s input { type filter hook input priority 0; }
add chain inet %[1]s output { type filter hook output priority 0; }
add rule inet %[1]s input tcp dport %[2]d tcp flags & (syn|ack) == syn update @tried { ip saddr }
add rule inet %[1]s input tcp dport %[2]d ip saddr @silent drop
add rule inet %[1]s output tcp sport %[2]d ip daddr @silent drop`, table, port))
}

// setSilent makes the packets from and to addresses, and no others, vanish.
func setSilent(netns string, addrs []netip.Addr) error {
	rules := "flush set inet " + table + " silent\n"
	for _, a := range addrs {
		rules += fmt.Sprintf("add element inet %s silent { %s }\n", table, a)
	}
	return nft(netns, rules)
}

func forgetTries(netns string) error { return nft(netns, "flush set inet "+table+" tried") }

func endTries(netns string) error { return nft(netns, "delete table inet "+table) }

func nft(netns, rules string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := namespace.Run(ctx, netns, "nft", rules)
	return err
}

// tries returns how often each address tried.
func tries(netns string) (map[netip.Addr]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	raw, err := namespace.Run(ctx, netns, "nft", "-j", "list", "set", "inet", table, "tried")
	if err != nil {
		return nil, err
	}
	var out struct {
		Nftables []struct {
			Set struct {
				Elem []struct {
					Elem struct {
						Val     netip.Addr
						Counter struct{ Packets int }
					}
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(raw), &out); err != nil {
		return nil, fmt.Errorf("what nft says: %w", err)
	}
	counts := map[netip.Addr]int{}
	for _, o := range out.Nftables {
		for _, e := range o.Set.Elem {
			counts[e.Elem.Val] = e.Elem.Counter.Packets
		}
	}
	return counts, nil
}
