package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

var noon = time.Date(2026, 11, 24, 4, 0, 0, 0, time.UTC)

func testScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	return s
}

// cluster returns the API of a cluster with the objects of a file.
func cluster(t *testing.T, file string) client.Reader {
	t.Helper()
	s := testScheme(t)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
	b := fake.NewClientBuilder().WithScheme(s)
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		obj, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		b.WithRuntimeObjects(obj)
	}
	return b.Build()
}

// run runs a command and returns its output and exit status.
func run(reader client.Reader, color bool, args ...string) (stdout, stderr string, status int) {
	var out, errOut bytes.Buffer
	env := Env{
		Out: &out, Err: &errOut, Program: "godwitctl", Color: color,
		Now: func() time.Time { return noon }, Reader: reader,
	}
	status = Run(context.Background(), env, args)
	return out.String(), errOut.String(), status
}

// golden compares with testdata/name; GODWIT_UPDATE_GOLDENS=1 writes it anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/" + name
	if os.Getenv("GODWIT_UPDATE_GOLDENS") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("output differs from %s (-want +got):\n%s", file, diff)
	}
}

func TestStatus(t *testing.T) {
	tests := []struct {
		golden  string
		objects string
		color   bool
		args    []string
		status  int
	}{
		{"well.txt", "well", false, nil, 0},
		{"well.wide.txt", "well", false, []string{"-o", "wide"}, 0},
		{"well.json", "well", false, []string{"-o", "json"}, 0},
		{"well.yaml", "well", false, []string{"--output=yaml"}, 0},
		{"well.txt", "well", false, []string{"--exit-code"}, 0},
		{"unwell.txt", "unwell", false, nil, 0},
		{"unwell.txt", "unwell", false, []string{"--exit-code"}, 2},
		{"unwell.wide.txt", "unwell", false, []string{"-o", "wide"}, 0},
		{"unwell.color.txt", "unwell", true, nil, 0},
		{"tunnels.txt", "tunnels", false, nil, 0},
		{"tunnels.color.txt", "tunnels", true, nil, 0},
		{"tunnels.json", "tunnels", false, []string{"-o", "json", "--exit-code"}, 2},
		{"unwell.json", "unwell", true, []string{"-o", "json", "--exit-code"}, 2},
	}
	for _, tt := range tests {
		t.Run(strings.Join(append([]string{tt.golden}, tt.args...), " "), func(t *testing.T) {
			reader := cluster(t, "testdata/"+tt.objects+".in.yaml")
			stdout, stderr, status := run(reader, tt.color, append([]string{"status"}, tt.args...)...)
			golden(t, tt.golden, stdout)
			if stderr != "" || status != tt.status {
				t.Errorf("status %d and stderr %q, want %d and none", status, stderr, tt.status)
			}
		})
	}
}

func TestEmptyCluster(t *testing.T) {
	stdout, _, status := run(fake.NewClientBuilder().WithScheme(testScheme(t)).Build(), false, "status")
	golden(t, "empty.txt", stdout)
	if status != 0 {
		t.Errorf("status %d, want 0", status)
	}
	stdout, _, _ = run(fake.NewClientBuilder().WithScheme(testScheme(t)).Build(), false, "status", "-o", "json")
	golden(t, "empty.json", stdout)
}

// A screen shows what is not in order first: the established sessions of a large
// mesh are not listed unless asked for.
func TestLongTables(t *testing.T) {
	nn := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	var objects []runtime.Object
	for i := range 100 {
		p := v1alpha1.PlannedSession{Name: fmt.Sprintf("m%02d", i), Kind: v1alpha1.SessionNode, PeerAddress: fmt.Sprintf("10.0.1.%d", i), PeerASN: 64512}
		s := v1alpha1.SessionStatus{Name: p.Name, Kind: p.Kind, PeerAddress: p.PeerAddress, PeerASN: p.PeerASN, State: "Established"}
		if i == 42 {
			s.State = "Connect"
		}
		nn.Spec.Sessions = append(nn.Spec.Sessions, p)
		nn.Status.Sessions = append(nn.Status.Sessions, s)
		cidr := fmt.Sprintf("172.25.%d.%d/26", i/4, i%4*64)
		objects = append(objects, &v1alpha1.IPBlock{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}, Spec: v1alpha1.IPBlockSpec{CIDR: cidr, Pool: "p", NodeName: "n1"},
		})
		if i != 7 {
			nn.Status.Blocks = append(nn.Status.Blocks, v1alpha1.BlockStatus{CIDR: cidr, Pool: "p", Allocated: 1})
		}
	}
	reader := fake.NewClientBuilder().WithScheme(testScheme(t)).WithRuntimeObjects(append(objects, nn)...).Build()
	short, _, _ := run(reader, false, "status")
	golden(t, "long.txt", short)
	long, _, _ := run(reader, false, "status", "--all")
	if n := strings.Count(long, "Established"); n != 99 {
		t.Errorf("--all lists %d established sessions, want 99", n)
	}
	if n := strings.Count(long, "172.25."); n != 100 {
		t.Errorf("--all lists %d blocks, want 100", n)
	}
}

func TestErrors(t *testing.T) {
	failing := func(err error, of client.ObjectList) client.Reader {
		return interceptor.NewClient(fake.NewClientBuilder().WithScheme(testScheme(t)).Build(), interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				if fmt.Sprintf("%T", list) == fmt.Sprintf("%T", of) {
					return err
				}
				return c.List(ctx, list, opts...)
			},
		})
	}
	nodes := schema.GroupResource{Resource: "nodes"}
	noMatch := &apimeta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "godwit.dev", Kind: "NodeNetwork"}, SearchedVersions: []string{"v1alpha1"}}
	tests := []struct {
		name   string
		reader client.Reader
		args   []string
		want   string // of stderr
		status int
	}{
		{"unknown command", nil, []string{"statsu"}, "error: unknown command \"statsu\" for \"godwitctl\"\n\nDid you mean this?\n\tstatus\n\n", 1},
		{"unknown flag", nil, []string{"status", "--foo"}, "error: unknown flag: --foo (see godwitctl status --help)\n", 1},
		{"unknown format", nil, []string{"status", "-o", "xml"}, "error: --output \"xml\": use wide, json or yaml\n", 1},
		{"argument too many", nil, []string{"status", "n1"}, "error: unknown command \"n1\" for \"godwitctl status\"\n", 1},
		{"no such kubeconfig", nil, []string{"status", "--kubeconfig", "/nonexistent"}, "error: find out how to reach the API server: stat /nonexistent: no such file or directory\n", 1},
		{
			"nobody listens", nil,
			[]string{"status", "--kubeconfig", "/dev/null", "--server", "http://127.0.0.1:1"},
			"error: reach the API server (see --kubeconfig, --context and --server): " +
				"failed to get server groups: Get \"http://127.0.0.1:1/api?timeout=15s\": dial tcp 127.0.0.1:1: connect: connection refused\n", 1,
		},
		{
			"no CRDs", failing(noMatch, &v1alpha1.NodeNetworkList{}),
			[]string{"status"},
			"error: this cluster does not know Godwit's kinds (apply config/crd first): " + noMatch.Error() + "\n", 1,
		},
		{
			"may not list blocks", failing(apierrors.NewForbidden(schema.GroupResource{Group: "godwit.dev", Resource: "ipblocks"}, "", errors.New("no")), &v1alpha1.IPBlockList{}),
			[]string{"status"},
			"error: ipblocks.godwit.dev is forbidden: no\n", 1,
		},
		{"may not list nodes", failing(apierrors.NewForbidden(nodes, "", errors.New("no")), &corev1.NodeList{}), []string{"status"}, "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, stderr, status := run(tt.reader, false, tt.args...)
			if stderr != tt.want || status != tt.status {
				t.Errorf("status %d and stderr:\n%swant %d and:\n%s", status, stderr, tt.status, tt.want)
			}
		})
	}
}

// Objects come in pages, decoded as a client decodes them; a report has them
// all, each as it was.
func TestPages(t *testing.T) {
	scheme := testScheme(t)
	network := func(name, pod string) v1alpha1.NodeNetwork {
		return v1alpha1.NodeNetwork{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"rack": name}},
			Spec:       v1alpha1.NodeNetworkSpec{Addresses: []string{pod}},
			Status:     v1alpha1.NodeNetworkStatus{Conditions: []metav1.Condition{{Type: "Ready", Message: name}}},
		}
	}
	draining := network("n1", "10.0.0.1")
	draining.Spec.Draining = true
	first := []v1alpha1.NodeNetwork{draining, network("n2", "10.0.0.2"), network("n3", "10.0.0.3")}
	second := []v1alpha1.NodeNetwork{network("n4", "10.0.0.4"), network("n5", "10.0.0.5")}
	pages := map[string]v1alpha1.NodeNetworkList{
		"":  {ListMeta: metav1.ListMeta{Continue: "2"}, Items: first},
		"2": {Items: second},
	}
	decoder := serializer.NewCodecFactory(scheme).UniversalDeserializer()
	reader := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).Build(), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			networks, ok := list.(*v1alpha1.NodeNetworkList)
			if !ok {
				return c.List(ctx, list, opts...)
			}
			var o client.ListOptions
			o.ApplyOptions(opts)
			page, ok := pages[o.Continue]
			if delete(pages, o.Continue); !ok {
				return fmt.Errorf("page %q was asked for twice, or never there", o.Continue)
			}
			page.APIVersion, page.Kind = v1alpha1.GroupVersion().String(), "NodeNetworkList"
			data, err := json.Marshal(page)
			if err != nil {
				return err
			}
			_, _, err = decoder.Decode(data, nil, networks)
			return err
		},
	})
	o, err := read(context.Background(), reader)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Concat(first, second), o.networks, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("what was read differs (-want +got):\n%s", diff)
	}
}

func TestVersion(t *testing.T) {
	if stdout, _, status := run(nil, false, "version"); stdout != "godwitctl development\n" || status != 0 {
		t.Errorf("version printed %q, status %d", stdout, status)
	}
}

// As a plugin, the program speaks of itself as it was called.
func TestPluginName(t *testing.T) {
	var out bytes.Buffer
	env := Env{Out: &out, Err: &out, Program: "/usr/local/bin/kubectl-godwit", Now: time.Now}
	Run(context.Background(), env, []string{"status", "--help"})
	if !strings.Contains(out.String(), "kubectl godwit status [flags]") {
		t.Errorf("help does not speak of kubectl godwit:\n%s", out.String())
	}
}
