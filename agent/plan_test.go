package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/bgp"
	"github.com/godwit-net/godwit/ipam"
)

const referencePlan = `
addresses: [10.211.55.101]
asn: 64512
routerID: 10.211.55.101
listenPort: 179
pools:
- name: default
  cidr: 172.25.0.0/16
  blockSize: 26
  encapsulation: None
  natOutgoing: true
  allocate: true
  reservedCIDRs: [172.25.0.0/28]
- name: old
  cidr: 172.26.0.0/16
  blockSize: 24
  encapsulation: None
sessions:
- name: n2
  kind: Node
  peerAddress: 10.211.55.116
  peerPort: 179
  peerASN: 64512
- name: tor1
  kind: External
  peerAddress: 10.211.55.1
  peerPort: 1179
  peerASN: 65001
  maxPrefixes: 100
  passwordSecretRef: {name: tor1, key: password}
  timers: {holdSeconds: 9, connectRetrySeconds: 2}
  gracefulRestart: {disabled: true}
  importRules:
  - {cidr: 192.168.0.0/16, minLength: 24, maxLength: 28, action: Accept}
  - {cidr: 10.0.0.0/8, action: Reject}
  - {cidr: 10.0.0.0/8, minLength: 16, action: Accept}
`

func parsePlan(t *testing.T, text string) *v1alpha1.NodeNetworkSpec {
	t.Helper()
	var spec v1alpha1.NodeNetworkSpec
	if err := yaml.UnmarshalStrict([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	return &spec
}

func compareNetip() cmp.Option {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmpopts.EquateEmpty(),
	}
}

func TestTranslateReferencePlan(t *testing.T) {
	got, problems := translate(parsePlan(t, referencePlan))
	if len(problems) > 0 {
		t.Fatalf("problems of a plan in order: %v", problems)
	}
	cidr := netip.MustParsePrefix
	rule := func(p string, from, to int, accept bool) bgp.Rule {
		return bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{{CIDR: cidr(p), MinLength: from, MaxLength: to}}}, Accept: accept}
	}
	want := bgp.Config{
		ASN:        64512,
		RouterID:   netip.MustParseAddr("10.211.55.101"),
		NextHops:   []netip.Addr{netip.MustParseAddr("10.211.55.101")},
		ListenPort: 179,
		Blocks: []bgp.Range{
			{CIDR: cidr("172.25.0.0/16"), MinLength: 26, MaxLength: 26},
			{CIDR: cidr("172.26.0.0/16"), MinLength: 24, MaxLength: 24},
		},
		Peers: []bgp.Peer{
			{
				Name: "n2", Kind: bgp.PeerNode, Address: netip.MustParseAddr("10.211.55.116"), Port: 179, ASN: 64512,
				Hold: 90 * time.Second, Keepalive: 30 * time.Second, ConnectRetry: 3 * time.Second, GracefulRestart: 120 * time.Second,
			},
			{
				Name: "tor1", Kind: bgp.PeerExternal, Address: netip.MustParseAddr("10.211.55.1"), Port: 1179, ASN: 65001,
				Hold: 9 * time.Second, Keepalive: 3 * time.Second, ConnectRetry: 2 * time.Second, MaxPrefixes: 100,
				Import: []bgp.Rule{
					rule("192.168.0.0/16", 24, 28, true),
					rule("10.0.0.0/8", 8, 8, false),
					rule("10.0.0.0/8", 16, 16, true),
				},
			},
		},
	}
	if diff := cmp.Diff(want, got.speaker, compareNetip()); diff != "" {
		t.Errorf("speaker (-want +got):\n%s", diff)
	}
	pools := []ipam.Pool{
		{Name: "default", CIDR: cidr("172.25.0.0/16"), BlockLen: 26, Reserved: []netip.Prefix{cidr("172.25.0.0/28")}, Allocate: true},
		{Name: "old", CIDR: cidr("172.26.0.0/16"), BlockLen: 24},
	}
	if diff := cmp.Diff(pools, got.pools, compareNetip()); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]netip.Prefix{cidr("172.25.0.0/16")}, got.natted, compareNetip()); diff != "" {
		t.Errorf("masqueraded (-want +got):\n%s", diff)
	}
	if len(got.choices) != 1 || got.choices[0].name != "default" {
		t.Errorf("pools that give out addresses: %+v, want default alone", got.choices)
	}
	if ref := got.passwords[netip.MustParseAddr("10.211.55.1")]; ref.Name != "tor1" || ref.Key != "password" {
		t.Errorf("password of tor1: %+v", ref)
	}
}

func TestTranslateKeepsWhatMakesSense(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(*v1alpha1.NodeNetworkSpec)
		want   string
	}{
		"node address":       {func(s *v1alpha1.NodeNetworkSpec) { s.Addresses = append(s.Addresses, "ten") }, "node address: "},
		"pool":               {func(s *v1alpha1.NodeNetworkSpec) { s.Pools[1].CIDR = "172.26.0.0" }, "pool old: "},
		"reserved range":     {func(s *v1alpha1.NodeNetworkSpec) { s.Pools[1].ReservedCIDRs = []string{"x"} }, "pool old: reserved range: "},
		"peer address":       {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].PeerAddress = "tor1" }, "session tor1: peer address: "},
		"import rule":        {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].ImportRules[0].CIDR = "all" }, "session tor1: import rule: "},
		"action":             {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].ImportRules[0].Action = "Perhaps" }, "session tor1: import rule: action: "},
		"export rule":        {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].ExportRules = []v1alpha1.BGPFilterRule{{CIDR: "all"}} }, "session tor1: export rule: "},
		"source of a route":  {exportRule(v1alpha1.BGPFilterRule{Source: "Static"}), "session tor1: export rule: source: "},
		"type of a peer":     {exportRule(v1alpha1.BGPFilterRule{PeerType: "Reflector"}), "session tor1: export rule: type of peer: "},
		"local preference":   {exportRule(v1alpha1.BGPFilterRule{Action: "Accept", Set: &v1alpha1.RouteAttributes{LocalPref: new(int64(1 << 32))}}), "session tor1: export rule: local preference: "},
		"MED":                {exportRule(v1alpha1.BGPFilterRule{Action: "Accept", Set: &v1alpha1.RouteAttributes{MED: new(int64(-1))}}), "session tor1: export rule: MED: "},
		"source address":     {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].SourceAddress = "eth0" }, "session tor1: source address: "},
		"multihop":           {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].EBGPMultihop = 256 }, "session tor1: ebgpMultihop: "},
		"TTL security":       {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].TTLSecurity = -1 }, "session tor1: ttlSecurity: "},
		"local AS number":    {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].LocalASN = 1 << 32 }, "session tor1: local AS number: "},
		"family":             {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].Families = []v1alpha1.AddressFamily{"VPNv4"} }, "session tor1: families: "},
		"next hop":           {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].NextHop = "Peer" }, "session tor1: next hop: "},
		"private AS numbers": {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].RemovePrivateASN = "All" }, "session tor1: private AS numbers: "},
		"block":              {func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].Blocks = []string{"172.25.0.0"} }, "session tor1: block: "},
		"advertisement": {func(s *v1alpha1.NodeNetworkSpec) {
			s.Pools[1].Advertise = &v1alpha1.PoolAdvertisement{LocalPref: new(int64(-1))}
		}, "pool old: local preference: "},
		"namespace selector": {func(s *v1alpha1.NodeNetworkSpec) { s.Pools[1].NamespaceSelector = badSelector() }, "pool old: namespace selector: "},
	} {
		t.Run(name, func(t *testing.T) {
			spec := parsePlan(t, referencePlan)
			c.damage(spec)
			got, problems := translate(spec)
			if len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), c.want) {
				t.Errorf("problems %v, want one that begins with %q", problems, c.want)
			}
			if len(got.pools) == 0 || got.pools[0].Name != "default" || len(got.speaker.Peers) == 0 || got.speaker.Peers[0].Name != "n2" {
				t.Errorf("the parts in order did not stand: %+v", got)
			}
		})
	}
}

func exportRule(r v1alpha1.BGPFilterRule) func(*v1alpha1.NodeNetworkSpec) {
	return func(s *v1alpha1.NodeNetworkSpec) { s.Sessions[1].ExportRules = []v1alpha1.BGPFilterRule{r} }
}

// Every option of a session, of a pool's announcement and of a rule.
const fullPlan = `
addresses: [10.211.55.101]
asn: 64512
routerID: 10.211.55.101
listenPort: 179
validateOrigin: true
reflector: true
draining: true
pools:
- {name: a, cidr: 172.25.0.0/16, blockSize: 26, encapsulation: None, advertise: {communities: ["64512:100"], localPref: 50}}
- {name: b, cidr: 172.26.0.0/16, blockSize: 26, encapsulation: None, advertise: {disabled: true}}
- {name: c, cidr: 172.27.0.0/16, blockSize: 26, encapsulation: None, advertise: {disabled: true, aggregate: true}}
sessions:
- name: n2
  kind: Node
  peerAddress: 10.211.55.116
  peerPort: 179
  peerASN: 64512
  blocks: [172.25.0.64/26, 172.25.3.0/26]
  reflection: Client
  gracefulRestart: {disabled: true, longLivedSeconds: 60}
- {name: n3, kind: Node, peerAddress: 10.211.55.117, peerPort: 179, peerASN: 64512, reflection: Server}
- name: tor1
  kind: External
  peerAddress: 10.211.55.1
  peerPort: 179
  peerASN: 65001
  localASN: 65010
  passive: true
  sourceAddress: 10.211.55.101
  ebgpMultihop: 4
  ttlSecurity: 3
  families: [IPv6, IPv4]
  nextHop: Keep
  asOverride: true
  allowOwnASN: 2
  removePrivateASN: Replace
  maxPrefixes: 100
  warnPrefixes: 80
  gracefulRestart: {longLivedSeconds: 86400}
  importRules:
  - {action: Accept, communities: ["64512:100", "64512:1:2"], communityRegex: "^64512:", asPathRegex: _65001$, set: {localPref: 200, med: 0, addCommunities: ["65535:65281"], removeCommunities: ["64512:1"], prepend: 3}}
  exportRules:
  - {action: Reject, source: Own}
  - {action: Accept, source: Learned, peerType: Node}
  - {action: Accept, peerType: External}
- {name: tor2, kind: External, peerAddress: 10.211.55.2, peerPort: 179, peerASN: 65001, nextHop: Self, removePrivateASN: Remove, families: [IPv6]}
- {name: racks, kind: External, peerPrefix: 10.211.60.0/24, maxPeers: 4, passive: true, peerPort: 179, peerASN: 65003, maxPrefixes: 7}
`

func TestTranslateEveryOption(t *testing.T) {
	got, problems := translate(parsePlan(t, fullPlan))
	if len(problems) > 0 {
		t.Fatalf("problems of a plan in order: %v", problems)
	}
	addr, cidr := netip.MustParseAddr, netip.MustParsePrefix
	withheld := bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{{CIDR: cidr("172.26.0.0/16"), MinLength: 16, MaxLength: 32}}, Source: bgp.SourceOwn}}
	partly := bgp.Rule{Match: bgp.Match{Ranges: []bgp.Range{{CIDR: cidr("172.27.0.0/16"), MinLength: 17, MaxLength: 32}}, Source: bgp.SourceOwn}}
	const hold, keepalive, retry = 90 * time.Second, 30 * time.Second, 3 * time.Second
	want := bgp.Config{
		ASN: 64512, RouterID: addr("10.211.55.101"), NextHops: []netip.Addr{addr("10.211.55.101")}, ListenPort: 179,
		ValidateOrigin: true, Draining: true, Reflector: true,
		Blocks: []bgp.Range{{CIDR: cidr("172.25.0.0/16"), MinLength: 26, MaxLength: 26}, {CIDR: cidr("172.26.0.0/16"), MinLength: 26, MaxLength: 26}, {CIDR: cidr("172.27.0.0/16"), MinLength: 26, MaxLength: 26}},
		Marks:  []bgp.Mark{{CIDR: cidr("172.25.0.0/16"), Communities: []string{"64512:100"}, LocalPref: new(uint32(50))}},
		Peers: []bgp.Peer{
			{
				Name: "n2", Kind: bgp.PeerNode, Address: addr("10.211.55.116"), Port: 179, ASN: 64512, Hold: hold, Keepalive: keepalive, ConnectRetry: retry,
				Owned: []netip.Prefix{cidr("172.25.0.64/26"), cidr("172.25.3.0/26")}, Reflection: bgp.ReflectionClient,
			},
			{
				Name: "n3", Kind: bgp.PeerNode, Address: addr("10.211.55.117"), Port: 179, ASN: 64512, Hold: hold, Keepalive: keepalive, ConnectRetry: retry,
				GracefulRestart: 120 * time.Second, Reflection: bgp.ReflectionServer,
			},
			{
				Name: "tor1", Kind: bgp.PeerExternal, Address: addr("10.211.55.1"), Port: 179, ASN: 65001, LocalASN: 65010,
				Hold: hold, Keepalive: keepalive, ConnectRetry: retry, GracefulRestart: 120 * time.Second, LongLived: 24 * time.Hour,
				Passive: true, SourceAddress: addr("10.211.55.101"), MultihopTTL: 4, GTSMHops: 3, Families: bgp.IPv4 | bgp.IPv6,
				NextHop: bgp.NextHopKeep, ASOverride: true, AllowOwnASN: 2, RemovePrivateAS: bgp.PrivateASReplace, MaxPrefixes: 100, WarnPrefixes: 80,
				Import: []bgp.Rule{{
					Match: bgp.Match{
						Communities: []string{"64512:100", "64512:1:2"}, CommunityRegexp: "^64512:", ASPathRegexp: "_65001$",
					},
					Accept: true,
					Set: bgp.Attributes{
						LocalPref: new(uint32(200)), MED: new(uint32(0)), Prepend: 3,
						AddCommunities: []string{"65535:65281"}, RemoveCommunities: []string{"64512:1"},
					},
				}},
				Export: []bgp.Rule{
					withheld, partly,
					{Match: bgp.Match{Source: bgp.SourceOwn}},
					{Match: bgp.Match{Source: bgp.SourceLearned, PeerKind: new(bgp.PeerNode)}, Accept: true},
					{Match: bgp.Match{PeerKind: new(bgp.PeerExternal)}, Accept: true},
				},
			},
			{
				Name: "tor2", Kind: bgp.PeerExternal, Address: addr("10.211.55.2"), Port: 179, ASN: 65001, Hold: hold, Keepalive: keepalive, ConnectRetry: retry,
				GracefulRestart: 120 * time.Second, NextHop: bgp.NextHopSelf, RemovePrivateAS: bgp.PrivateASRemove, Families: bgp.IPv6,
				Export: []bgp.Rule{withheld, partly},
			},
		},
		Callers: []bgp.Callers{{Prefix: cidr("10.211.60.0/24"), Most: 4, Peer: bgp.Peer{
			Name: "racks", Kind: bgp.PeerExternal, Port: 179, ASN: 65003, Hold: hold, Keepalive: keepalive, ConnectRetry: retry,
			GracefulRestart: 120 * time.Second, Passive: true, MaxPrefixes: 7, Export: []bgp.Rule{withheld, partly},
		}}},
	}
	if diff := cmp.Diff(want, got.speaker, compareNetip()); diff != "" {
		t.Errorf("speaker (-want +got):\n%s", diff)
	}
	if want := []netip.Prefix{cidr("172.27.0.0/16")}; !slices.Equal(got.aggregates, want) {
		t.Errorf("aggregates %v, want %v", got.aggregates, want)
	}
}

func TestAggregatesNeedABlockInside(t *testing.T) {
	cidr := netip.MustParsePrefix
	d := desired{aggregates: []netip.Prefix{cidr("172.25.0.0/16"), cidr("172.26.0.0/16"), cidr("172.27.0.64/26")}}
	blocks := []netip.Prefix{
		cidr("172.26.1.0/26"),
		cidr("172.27.0.64/26"), // the pool is one block, which is announced anyway
	}
	if got, want := aggregatesOf(&d, blocks), []netip.Prefix{cidr("172.26.0.0/16")}; !slices.Equal(got, want) {
		t.Errorf("aggregates %v, want %v", got, want)
	}
	if got := aggregatesOf(&d, nil); got != nil {
		t.Errorf("aggregates %v of a node without blocks", got)
	}
}

func badSelector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Sometimes"}}}
}
