package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/google/go-cmp/cmp"

	cniapi "github.com/godwit-net/godwit/api/cni"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/ipam"
)

// bench is a server on a fake node.
type bench struct {
	*Server
	t         *testing.T
	allocator *memoryAllocator
	node      *fakeNode
	socket    string
	notReady  error
	stop      func()
}

func newBench(t *testing.T, addresses int, o Options) *bench {
	t.Helper()
	return newBenchOf(t, newMemoryAllocator(addresses, "172.25.0.128"), o)
}

func newBenchOf(t *testing.T, a *memoryAllocator, o Options) *bench {
	t.Helper()
	b := &bench{t: t, allocator: a, node: newFakeNode()}
	b.start(o)
	return b
}

// start starts a server on what is there, as a restarted agent does.
func (b *bench) start(o Options) []Attachment {
	b.t.Helper()
	o.Allocator, o.Routes, o.Wirer = b.allocator, b.node, b.node
	o.Ready = func() error { return b.notReady }
	o.Log = slog.New(slog.DiscardHandler)
	b.Server = NewServer(o)
	attached, err := b.Recover(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	b.socket = filepath.Join(b.t.TempDir(), "cni.sock")
	l, err := Listen(b.socket)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, l) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Serve: %v", err)
		}
	})
	b.t.Cleanup(b.stop)
	return attached
}

const plainConfig = `{"cniVersion":"1.1.0","name":"godwit","type":"godwit-cni"}`

func request(id string) *cniapi.Request {
	return &cniapi.Request{
		ContainerId: id, Netns: "/ns/" + id, IfName: "eth0", Config: []byte(plainConfig),
		Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=till-0;K8S_POD_INFRA_CONTAINER_ID=x",
	}
}

type method func(context.Context, *cniapi.Request) (*cniapi.Response, error)

// code calls a verb and returns the error's code, 0 for success.
func (b *bench) code(m method, r *cniapi.Request) uint32 {
	b.t.Helper()
	resp, err := m(b.t.Context(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.GetError().GetCode()
}

func (b *bench) must(m method, r *cniapi.Request) *cniapi.Response {
	b.t.Helper()
	resp, err := m(b.t.Context(), r)
	if err != nil || resp.GetError() != nil {
		b.t.Fatalf("%v, %v", err, resp.GetError())
	}
	return resp
}

// left is what there is: links, routes, records.
func (b *bench) left() string {
	b.node.mu.Lock()
	defer b.node.mu.Unlock()
	return fmt.Sprintf("%d links, %d routes, %d records", len(b.node.links), len(b.node.routes), len(b.allocator.Records()))
}

func (b *bench) expectLeft(want string) {
	b.t.Helper()
	if got := b.left(); got != want {
		b.t.Errorf("there are %s, want %s", got, want)
	}
}

// eventually waits for what the reaper does.
func (b *bench) eventually(want string) {
	b.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); b.left() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("there are %s, want %s", b.left(), want)
		}
	}
}

func TestAddAnswersInTheVersionAsked(t *testing.T) {
	for version, want := range map[string]string{
		"0.4.0": `{"cniVersion":"0.4.0","interfaces":[{"name":"HOST","mac":"ee:ee:ee:ee:ee:ee"},{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/ns/c"}],` +
			`"ips":[{"version":"4","interface":1,"address":"172.25.0.128/32","gateway":"169.254.1.1"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}],"dns":{"nameservers":["172.25.9.9"]}}`,
		"1.0.0": `{"cniVersion":"1.0.0","interfaces":[{"name":"HOST","mac":"ee:ee:ee:ee:ee:ee"},{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/ns/c"}],` +
			`"ips":[{"interface":1,"address":"172.25.0.128/32","gateway":"169.254.1.1"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}],"dns":{"nameservers":["172.25.9.9"]}}`,
		"1.1.0": `{"cniVersion":"1.1.0","interfaces":[{"name":"HOST","mac":"ee:ee:ee:ee:ee:ee"},{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/ns/c"}],` +
			`"ips":[{"interface":1,"address":"172.25.0.128/32","gateway":"169.254.1.1"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}],"dns":{"nameservers":["172.25.9.9"]}}`,
	} {
		b := newBench(t, 4, Options{})
		r := request("c")
		r.Config = []byte(`{"cniVersion":"` + version + `","name":"godwit","type":"godwit-cni","dns":{"nameservers":["172.25.9.9"]}}`)
		var got, wanted any
		if err := errors.Join(json.Unmarshal(b.must(b.Add, r).GetResult(), &got),
			json.Unmarshal([]byte(strings.Replace(want, "HOST", wire.HostEnd("c", "eth0"), 1)), &wanted)); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(wanted, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", version, d)
		}
		if got := b.allocator.Records()[0].Pod; got != "shop/till-0" {
			t.Errorf("the record is of pod %q", got)
		}
		b.expectLeft("1 links, 1 routes, 1 records")
	}
}

// A result names both addresses with their gateways and routes, and the MTU in
// the version that has one.
func TestAddAnswersForBothFamilies(t *testing.T) {
	const (
		link4  = `{"interface":1,"address":"172.25.0.128/32","gateway":"169.254.1.1"}`
		link6  = `{"interface":1,"address":"fd00:25::80/128","gateway":"fe80::ecee:eeff:feee:eeee"}`
		route4 = `{"dst":"0.0.0.0/0","gw":"169.254.1.1"}`
		route6 = `{"dst":"::/0","gw":"fe80::ecee:eeff:feee:eeee"}`
	)
	withMTU := func(s, mtu string) string {
		return strings.ReplaceAll(strings.ReplaceAll(s, `"gw":`, `"mtu":`+mtu+`,"gw":`), `"mac":`, `"mtu":`+mtu+`,"mac":`)
	}
	for _, c := range []struct {
		name, version, more string
		first               []string
		ips, routes         string
		mtu                 string
	}{
		{"dual-stack", "1.1.0", "", []string{"172.25.0.128", "fd00:25::80"}, link4 + "," + link6, route4 + "," + route6, "1430"},
		{"IPv6 only", "1.1.0", "", []string{"fd00:25::80"}, link6, route6, "1450"},
		{"an MTU in the configuration", "1.1.0", `,"mtu":1300`, []string{"fd00:25::80"}, link6, route6, "1300"},
		{"a version without MTU", "1.0.0", "", []string{"172.25.0.128", "fd00:25::80"}, link4 + "," + link6, route4 + "," + route6, ""},
		{"the oldest version", "0.4.0", "", []string{"fd00:25::80"}, strings.Replace(link6, "{", `{"version":"6",`, 1), route6, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBenchOf(t, newMemoryAllocator(4, c.first...), Options{MTU: func(addresses []netip.Addr) (int, error) {
				return map[int]int{1: 1450, 2: 1430}[len(addresses)], nil
			}})
			r := request("c")
			r.Config = []byte(`{"cniVersion":"` + c.version + `","name":"godwit","type":"godwit-cni","dns":{"nameservers":["fd00:25::a"]}` + c.more + `}`)
			want := `{"cniVersion":"` + c.version + `","interfaces":[{"name":"` + wire.HostEnd("c", "eth0") + `","mac":"ee:ee:ee:ee:ee:ee"},` +
				`{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/ns/c"}],"ips":[` + c.ips + `],"routes":[` + c.routes + `],"dns":{"nameservers":["fd00:25::a"]}}`
			if c.mtu != "" {
				want = withMTU(want, c.mtu)
			}
			var got, wanted any
			if err := errors.Join(json.Unmarshal(b.must(b.Add, r).GetResult(), &got), json.Unmarshal([]byte(want), &wanted)); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(wanted, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			b.expectLeft(fmt.Sprintf("1 links, %d routes, %d records", len(c.first), len(c.first)))
		})
	}
}

// A container that needs an MTU which is not known yet is attached later, rather
// than with another for life.
func TestAddWaitsForTheMTU(t *testing.T) {
	var known atomic.Bool
	b := newBench(t, 4, Options{MTU: func([]netip.Addr) (int, error) {
		if !known.Load() {
			return 0, errors.New("no interface has the node's address: give it one")
		}
		return 1450, nil
	}})
	resp, err := b.Add(t.Context(), request("c"))
	if e := resp.GetError(); err != nil || e.GetCode() != CodeTryAgain || !strings.Contains(e.GetDetails(), "give it one") {
		t.Errorf("%v, %v; want code %d, and what to do", err, e, CodeTryAgain)
	}
	b.expectLeft("0 links, 0 routes, 0 records")
	r := request("d")
	r.Config = []byte(`{"cniVersion":"1.1.0","name":"godwit","type":"godwit-cni","mtu":1300}`)
	b.must(b.Add, r) // it needs none
	known.Store(true)
	if got := string(b.must(b.Add, request("c")).GetResult()); !strings.Contains(got, `"mtu":1450`) {
		t.Errorf("the MTU is not 1450: %s", got)
	}
}

func TestBadInput(t *testing.T) {
	with := func(change func(*cniapi.Request)) *cniapi.Request {
		r := request("c")
		change(r)
		return r
	}
	config := func(text string) *cniapi.Request {
		return with(func(r *cniapi.Request) { r.Config = []byte(text) })
	}
	for _, c := range []struct {
		name string
		r    *cniapi.Request
		code uint32
		msg  string
	}{
		{"no netns", with(func(r *cniapi.Request) { r.Netns = "" }), 4, "CNI_NETNS is not set"},
		{"netns that is not there", with(func(r *cniapi.Request) { r.Netns = "/gone" }), 4, `CNI_NETNS "/gone" does not exist`},
		{"netns that is a file", with(func(r *cniapi.Request) { r.Netns = "/file" }), 4, `CNI_NETNS "/file" is not a network namespace`},
		{"netns of the node", with(func(r *cniapi.Request) { r.Netns = "/node" }), 4, `CNI_NETNS "/node" is the node's own network namespace`},
		{"no container id", with(func(r *cniapi.Request) { r.ContainerId = "" }), 4, "CNI_CONTAINERID is not set"},
		{"bad container id", with(func(r *cniapi.Request) { r.ContainerId = "../c" }), 4, `CNI_CONTAINERID "../c" is no container id`},
		{"container id too long", with(func(r *cniapi.Request) { r.ContainerId = strings.Repeat("c", 200) }), 4, "CNI_CONTAINERID or the network's name is too long"},
		{"no interface name", with(func(r *cniapi.Request) { r.IfName = "" }), 4, "CNI_IFNAME is not set"},
		{"interface name too long", with(func(r *cniapi.Request) { r.IfName = "eth0123456789abc" }), 4, `CNI_IFNAME "eth0123456789abc" is too long`},
		{"interface name with a slash", with(func(r *cniapi.Request) { r.IfName = "../eth0" }), 4, `CNI_IFNAME "../eth0" is no interface name`},
		{"interface name with a blank", with(func(r *cniapi.Request) { r.IfName = "eth 0" }), 4, `CNI_IFNAME "eth 0" is no interface name`},
		{"interface name of a pattern", with(func(r *cniapi.Request) { r.IfName = "eth%d" }), 4, `CNI_IFNAME "eth%d" is no interface name`},
		{"loopback", with(func(r *cniapi.Request) { r.IfName = "lo" }), 4, `CNI_IFNAME "lo" is no interface name`},
		{"bad arguments", with(func(r *cniapi.Request) { r.Args = "nonsense" }), 4, `CNI_ARGS "nonsense" can't be read`},
		{"broken JSON", config(`{"cniVersion":"1.1.0"`), 6, "the network configuration is not JSON"},
		{"empty", config(``), 6, "the network configuration is not JSON"},
		{"not an object", config(`[]`), 6, "the network configuration can't be read"},
		{"a member of a wrong type", config(`{"cniVersion":"1.1.0","name":"godwit","mtu":"big"}`), 6, "the network configuration can't be read"},
		{"no version", config(`{"name":"godwit"}`), 1, "the network configuration has no cniVersion"},
		{"unknown version", config(`{"cniVersion":"9.9.9","name":"godwit"}`), 1, `CNI version "9.9.9" is not supported`},
		{"old version", config(`{"cniVersion":"0.3.1","name":"godwit"}`), 1, `CNI version "0.3.1" is not supported`},
		{"no network name", config(`{"cniVersion":"1.1.0"}`), 7, `"" is no network name`},
		{"bad network name", config(`{"cniVersion":"1.1.0","name":"a b"}`), 7, `"a b" is no network name`},
		{"address plugin", config(`{"cniVersion":"1.1.0","name":"godwit","ipam":{"type":"host-local"}}`), 2, `the network configuration has an "ipam" section`},
		{"not first in the chain", config(`{"cniVersion":"1.1.0","name":"godwit","prevResult":{"ips":[]}}`), 7, "godwit-cni is not the first plugin of the network"},
		{"bad MTU", config(`{"cniVersion":"1.1.0","name":"godwit","mtu":5}`), 7, "5 is no MTU"},
		{"annotations of a wrong type", config(`{"cniVersion":"1.1.0","name":"godwit","runtimeConfig":{"io.kubernetes.cri.pod-annotations":["a"]}}`), 6, `the pod's annotations in "runtimeConfig" can't be read`},
		{"bad DNS", config(`{"cniVersion":"1.1.0","name":"godwit","dns":{"nameservers":"one"}}`), 6, "the network configuration can't be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 4, Options{})
			resp, err := b.Add(t.Context(), c.r)
			if err != nil {
				t.Fatal(err)
			}
			if e := resp.GetError(); e.GetCode() != c.code || e.GetMsg() != c.msg || resp.GetResult() != nil {
				t.Errorf("error %d %q (%s), want %d %q", e.GetCode(), e.GetMsg(), e.GetDetails(), c.code, c.msg)
			}
			b.expectLeft("0 links, 0 routes, 0 records")
		})
	}
}

func TestAnnotationsReachTheAllocator(t *testing.T) {
	for text, want := range map[string]map[string]string{
		plainConfig: nil,
		`{"cniVersion":"1.1.0","name":"godwit","runtimeConfig":{"portMappings":[]}}`:                                                       nil,
		`{"cniVersion":"1.1.0","name":"godwit","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"godwit.dev/ip":"10.0.0.7","a":""}}}`: {"godwit.dev/ip": "10.0.0.7", "a": ""},
	} {
		r := request("c")
		r.Config = []byte(text)
		c, err := parseCall(r)
		if err == nil {
			err = c.vetForAdd()
		}
		if err != nil || !maps.Equal(c.pod.Annotations, want) || c.pod.Name != "till-0" {
			t.Errorf("%s: %v, pod %+v, want annotations %v", text, err, c.pod, want)
		}
	}
}

func TestDelToleratesWhatAddRefuses(t *testing.T) {
	b := newBench(t, 4, Options{ReapDelay: time.Millisecond})
	b.must(b.Add, request("c"))
	r := request("c")
	r.Netns, r.Args = "", "nonsense"
	r.Config = []byte(`{"cniVersion":"1.1.0","name":"godwit","ipam":{"type":"x"},"prevResult":{"ips":[]}}`)
	b.must(b.Del, r)
	b.eventually("0 links, 0 routes, 0 records")
}

func TestFailedAddLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		fail func(*bench, context.CancelFunc)
		code uint32
		msg  string
	}{
		"not ready":    {func(b *bench, _ context.CancelFunc) { b.notReady = errors.New("it has no plan yet") }, 11, "the Godwit agent on this node is not ready, try again later"},
		"link":         {func(b *bench, _ context.CancelFunc) { b.node.attachErr = boom }, 5, "attaching the container failed"},
		"no IPv6":      {func(b *bench, _ context.CancelFunc) { b.node.attachErr = wire.ErrNoIPv6 }, 7, "interface eth0 can't have the address of its IPv6 pool"},
		"interface":    {func(b *bench, _ context.CancelFunc) { b.node.attachErr = wire.ErrInterfaceExists }, 102, "interface eth0 exists already"},
		"route":        {func(b *bench, _ context.CancelFunc) { b.node.routeErr = boom }, 5, "adding the route to 172.25.0.128 failed"},
		"cancelled":    {func(b *bench, cancel context.CancelFunc) { b.node.attaching = func(context.Context) { cancel() } }, 11, "attaching the container was cancelled"},
		"kernel panic": {func(b *bench, _ context.CancelFunc) { b.node.attaching = func(context.Context) { panic("oh no") } }, 100, "the Godwit agent has a bug; see its log"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 4, Options{ReapDelay: time.Hour})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c.fail(b, cancel)
			resp, err := b.Add(ctx, request("c"))
			if err != nil {
				t.Fatal(err)
			}
			if e := resp.GetError(); e.GetCode() != c.code || e.GetMsg() != c.msg {
				t.Errorf("error %d %q, want %d %q", e.GetCode(), e.GetMsg(), c.code, c.msg)
			}
			b.expectLeft("0 links, 0 routes, 0 records")
			b.notReady = nil
			b.node.set(func() { b.node.attachErr, b.node.routeErr, b.node.attaching = nil, nil, nil })
			b.must(b.Add, request("c"))
			b.expectLeft("1 links, 1 routes, 1 records")
		})
	}
}

func TestRepeatedAddLeavesTheAttachmentUnharmed(t *testing.T) {
	b := newBench(t, 4, Options{ReapDelay: time.Millisecond})
	b.must(b.Add, request("c"))
	if code := b.code(b.Add, request("c")); code != CodeExists {
		t.Errorf("code %d", code)
	}
	b.expectLeft("1 links, 1 routes, 1 records")
	// Its namespace goes without DEL: then an ADD is a new one.
	b.node.vanish("c")
	b.must(b.Add, request("c"))
	b.expectLeft("1 links, 1 routes, 1 records")
}

func TestExhaustedPool(t *testing.T) {
	b := newBench(t, 1, Options{ReapDelay: time.Hour})
	b.must(b.Add, request("one"))
	resp, err := b.Add(t.Context(), request("two"))
	if err != nil {
		t.Fatal(err)
	}
	e := resp.GetError()
	if e.GetCode() != CodeExhausted || e.GetMsg() != `no free address in IP pools ["default"]` || !strings.Contains(e.GetDetails(), "all its addresses are given out") {
		t.Errorf("%v", e)
	}
	// An address that is on its way back is waited for, not the reaper's delay.
	b.must(b.Del, request("one"))
	b.must(b.Add, request("two"))
	b.expectLeft("1 links, 1 routes, 1 records")
}

// A DEL that comes again, after the address went to another pod, must not take
// that pod's route.
func TestLateDelHarmsNobody(t *testing.T) {
	b := newBench(t, 1, Options{ReapDelay: time.Millisecond})
	b.must(b.Add, request("one"))
	b.must(b.Del, request("one"))
	b.must(b.Add, request("two"))
	b.must(b.Del, request("one"))
	b.eventually("1 links, 1 routes, 1 records")

	// The same while it is doomed still.
	b = newBench(t, 2, Options{ReapDelay: time.Hour})
	b.must(b.Add, request("one"))
	b.must(b.Del, request("one"))
	n := len(b.node.log)
	b.must(b.Del, request("one"))
	if got := b.node.log[n:]; len(got) != 0 {
		t.Errorf("the second DEL did %q", got)
	}
}

func TestDelKnowsContainerAndInterface(t *testing.T) {
	b := newBench(t, 4, Options{ReapDelay: time.Millisecond})
	second := request("c")
	second.IfName = "eth1"
	b.must(b.Add, request("c"))
	b.must(b.Add, second)
	b.must(b.Del, second)
	b.eventually("1 links, 1 routes, 1 records")
	if a := b.Attachments(); len(a) != 1 || a[0].Owner.Interface != "eth0" {
		t.Errorf("attached: %v", a)
	}
}

func TestGCCollectsWhatTheRuntimeDoesNotKnow(t *testing.T) {
	b := newBench(t, 8, Options{ReapDelay: time.Millisecond})
	for _, id := range []string{"keep", "stale1", "stale2"} {
		b.must(b.Add, request(id))
	}
	other := request("other")
	other.Config = []byte(`{"cniVersion":"1.1.0","name":"another"}`)
	b.must(b.Add, other)
	b.must(b.GC, &cniapi.Request{Config: []byte(`{"cniVersion":"1.1.0","name":"godwit","cni.dev/valid-attachments":[{"containerID":"keep","ifname":"eth0"},{"containerID":"stale1","ifname":"eth7"}]}`)})
	b.eventually("2 links, 2 routes, 2 records")
	var left []string
	for _, a := range b.Attachments() {
		left = append(left, a.Owner.ContainerID)
	}
	slices.Sort(left)
	if !slices.Equal(left, []string{"keep", "other"}) {
		t.Errorf("left are %v", left)
	}
}

// GC looks at an attachment once more right before it goes: one that was made anew
// after the runtime made its list stays, with its address.
func TestGCSparesWhatIsAttachedAnew(t *testing.T) {
	b := newBench(t, 8, Options{ReapDelay: time.Millisecond})
	b.must(b.Add, request("c"))
	a := b.Attachments()[0]
	unlock, err := b.locks.lock(t.Context(), a.Owner)
	if err != nil {
		t.Fatal(err)
	}
	collected := make(chan *cniapi.Response)
	all := &cniapi.Request{Config: []byte(`{"cniVersion":"1.1.0","name":"godwit","cni.dev/valid-attachments":[]}`)}
	go func() {
		resp, _ := b.GC(t.Context(), all)
		collected <- resp
	}()
	waits := func() bool {
		b.locks.mu.Lock()
		defer b.locks.mu.Unlock()
		return b.locks.held[a.Owner].users == 2
	}
	for deadline := time.Now().Add(5 * time.Second); !waits(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("GC does not wait for the container's lock")
		}
	}
	b.setAttached(a) // as an ADD does that held the lock
	unlock()
	if resp := <-collected; resp.GetError() != nil {
		t.Fatal(resp.GetError())
	}
	b.eventually("1 links, 1 routes, 1 records")
	if left := b.Attachments(); len(left) != 1 {
		t.Errorf("attached: %+v", left)
	}
	b.must(b.GC, all)
	b.eventually("0 links, 0 routes, 0 records")
}

func TestStatus(t *testing.T) {
	b := newBench(t, 1, Options{})
	b.must(b.Status, &cniapi.Request{Config: []byte(plainConfig)})
	b.notReady = errors.New("it has no plan yet")
	resp, _ := b.Status(t.Context(), &cniapi.Request{Config: []byte(plainConfig)})
	if e := resp.GetError(); e.GetCode() != 50 || e.GetDetails() != "it has no plan yet" {
		t.Errorf("%v", e)
	}
}

func TestCheck(t *testing.T) {
	b := newBench(t, 4, Options{})
	check := func(prev string) *cniapi.Error {
		t.Helper()
		r := request("c")
		r.Config = []byte(`{"cniVersion":"1.1.0","name":"godwit","prevResult":` + prev + `}`)
		resp, err := b.Check(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetError()
	}
	if e := check("null"); e.GetCode() != CodeConfig {
		t.Errorf("without prevResult: %v", e)
	}
	good := strings.TrimSpace(string(b.must(b.Add, request("c")).GetResult()))
	if e := check(good); e != nil {
		t.Errorf("%v", e)
	}
	if e := check(strings.Replace(good, "172.25.0.128/32", "172.25.0.129/32", 1)); e.GetCode() != CodeDiffers || !strings.Contains(e.GetDetails(), "172.25.0.129") {
		t.Errorf("another address: %v", e)
	}
	if e := check(`{"cniVersion":"1.1.0","interfaces":[]}`); e.GetCode() != CodeConfig {
		t.Errorf("no interface: %v", e)
	}
	if e := check(`{"cniVersion":"1.1.0","ips":7}`); e.GetCode() != CodeDecode {
		t.Errorf("broken: %v", e)
	}
	b.node.diffs = []string{"the link is down"}
	if e := check(good); e.GetCode() != CodeDiffers || e.GetDetails() != "the link is down" {
		t.Errorf("difference: %v", e)
	}
	b.node.diffs = nil
	if err := b.allocator.Release(t.Context(), ipam.Owner{ContainerID: "c", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if e := check(good); e.GetCode() != CodeDiffers || !strings.Contains(e.GetDetails(), "172.25.0.128 is on record as free") {
		t.Errorf("record: %v", e)
	}
	b.must(b.Del, request("c"))
	if e := check(good); e.GetCode() != CodeUnknown {
		t.Errorf("detached: %v", e)
	}
}

func TestManyContainersAtOnce(t *testing.T) {
	const n = 50
	b := newBench(t, n, Options{ReapDelay: time.Millisecond})
	for range 3 {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				// Twice each: one succeeds, one is refused.
				codes := make(chan uint32, 2)
				var both sync.WaitGroup
				for range 2 {
					both.Go(func() { codes <- b.code(b.Add, request(fmt.Sprint("c", i))) })
				}
				both.Wait()
				if x, y := <-codes, <-codes; x+y != CodeExists {
					t.Errorf("codes %d and %d", x, y)
				}
			})
		}
		wg.Wait()
		b.expectLeft(fmt.Sprintf("%d links, %d routes, %d records", n, n, n))
		for i := range n {
			wg.Go(func() { b.must(b.Del, request(fmt.Sprint("c", i))) })
		}
		wg.Wait()
	}
	b.eventually("0 links, 0 routes, 0 records")
}

func TestEndingServerTakesNoCalls(t *testing.T) {
	b := newBench(t, 4, Options{})
	b.stop()
	if code := b.code(b.Add, request("c")); code != CodeTryAgain {
		t.Errorf("code %d", code)
	}
}

// A runtime that gives up kills the plugin; an agent that is told to end ends.
func TestCallThatIsCutShortIsUndone(t *testing.T) {
	for name, cut := range map[string]func(*bench, net.Conn){
		"caller gone":  func(_ *bench, c net.Conn) { _ = c.Close() },
		"agent ending": func(b *bench, _ net.Conn) { b.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 4, Options{ReapDelay: time.Hour})
			conn, err := net.Dial("unix", b.socket)
			if err != nil {
				t.Fatal(err)
			}
			client := ttrpc.NewClient(conn)
			defer func() { _ = client.Close() }()
			entered := make(chan struct{})
			b.node.attaching = func(ctx context.Context) { close(entered); <-ctx.Done() }
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = cniapi.NewCNIClient(client).Add(context.Background(), request("c"))
			}()
			<-entered
			cut(b, conn)
			<-done
			b.stop()
			b.expectLeft("0 links, 0 routes, 0 records")
		})
	}
}
