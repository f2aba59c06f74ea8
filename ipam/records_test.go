package ipam

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func openDir(t testing.TB, path string) (*recordDir, []Record, []released) {
	t.Helper()
	d, records, free, err := openRecords(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d, records, free
}

func record(addr, container string) Record {
	return Record{Address: netip.MustParseAddr(addr), Pool: "p", Owner: Owner{container, "eth0"}, Pod: "default/" + container}
}

func TestRecordsOutliveTheirMaker(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := openDir(t, dir)
	want := []Record{record("10.0.0.1", "a"), record("fd00::1", "a")}
	for _, r := range append(want, record("10.0.0.2", "b"), record("10.0.0.3", "c"), record("10.0.0.4", "d")) {
		if err := d.create(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.create(record("10.0.0.1", "z")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second record of an address: %v, want fs.ErrExist", err)
	}
	for _, a := range []string{"10.0.0.4", "10.0.0.2", "10.0.0.3"} {
		if _, err := d.release(netip.MustParseAddr(a)); err != nil {
			t.Fatal(err)
		}
	}
	d, records, free := openDir(t, dir)
	if diff := cmp.Diff(want, records, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("records after a restart (-want +got):\n%s", diff)
	}
	var order []string
	for _, r := range free {
		order = append(order, r.addr.String())
	}
	if diff := cmp.Diff([]string{"10.0.0.4", "10.0.0.2", "10.0.0.3"}, order); diff != "" {
		t.Errorf("order of release after a restart (-want +got):\n%s", diff)
	}
	if seq, _ := d.release(netip.MustParseAddr("10.0.0.1")); seq <= free[2].seq {
		t.Errorf("the number of a release went back to %d from %d", seq, free[2].seq)
	}
}

func TestHalfMadeRecordsAreAbsent(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := openDir(t, dir)
	if err := d.create(record("10.0.0.1", "a")); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "10.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"10.0.0.2":                           "",
		"10.0.0.3":                           string(whole[:len(whole)/2]),
		"10.0.0.4":                           string(whole), // of another address
		"10.0.0.5":                           `{"address":"10.0.0.5"}`,
		".new-x-1":                           string(whole),
		"README":                             "not ours",
		"released/x":                         "",
		"released/0-1":                       "",
		"released/0000000000000001-10.0.0.1": "", // in use by now
		"released/0000000000000002-10.0.0.9": "", // released twice
		"released/0000000000000003-10.0.0.9": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, records, free := openDir(t, dir)
	if diff := cmp.Diff([]Record{record("10.0.0.1", "a")}, records, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if len(free) != 1 || free[0].name() != "0000000000000003-10.0.0.9" {
		t.Errorf("released: %v, want the later one of 10.0.0.9", free)
	}
	var left []string
	for _, pattern := range []string{"*", ".*", "released/*"} {
		names, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, n := range names {
			rel, _ := filepath.Rel(dir, n)
			left = append(left, rel)
		}
	}
	want := []string{"10.0.0.1", "README", "released", "released/0000000000000003-10.0.0.9"}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("files left (-want +got):\n%s", diff)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("10.0.0.1", []byte(`{"address":"10.0.0.1","pool":"p","owner":{"containerID":"c","interface":"eth0"}}`))
	f.Add("fd00::1", []byte(`{"address":"fd00::1"`))
	f.Add("10.0.0.1", []byte(nil))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		a, err := netip.ParseAddr(name)
		if err != nil {
			return
		}
		r, err := parseRecord(a, data)
		if err == nil && (r.Address != a || r.Owner.ContainerID == "") {
			t.Errorf("record %+v taken for %s", r, a)
		}
	})
}

func FuzzParseReleased(f *testing.F) {
	f.Add("0000000000000002-10.0.0.9")
	f.Add("00000000000000ff-fd00::1")
	f.Add("-")
	f.Fuzz(func(t *testing.T, name string) {
		r, err := parseReleased(name)
		if err != nil {
			return
		}
		again, err := parseReleased(r.name())
		if err != nil || again != r {
			t.Errorf("%q parses to %v, whose name parses to %v, %v", name, r, again, err)
		}
	})
}
