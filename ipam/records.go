package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	newPrefix   = ".new-"
	releasedDir = "released"
)

// recordDir is the directory of the records:
//
//	172.25.0.130                           a record, as JSON
//	released/00000000000000a7-172.25.0.131 one that was released, as the 0xa7th
//	.new-k3x9-3                            one in the making
//
// A record comes into being by link(2), complete and only if no other has its
// name. It is released by rename(2), with a number that goes up, so that the
// order of releases outlives the agent. Not for concurrent use.
type recordDir struct {
	path string
	seq  uint64 // of the last release
	run  string // tells this life of the agent from others, in names of unfinished records
	made uint64 // how many records this life made
}

// released is an address that was in use once.
type released struct {
	addr netip.Addr
	seq  uint64
}

// openRecords reads the directory, which it makes if it is missing. What is not
// a whole record counts as absent and is removed. Released addresses come in
// the order of their release.
func openRecords(path string, log *slog.Logger) (*recordDir, []Record, []released, error) {
	d := &recordDir{path: path, run: strconv.FormatInt(int64(os.Getpid()), 36) + strconv.FormatInt(time.Now().UnixNano(), 36)}
	if err := os.MkdirAll(filepath.Join(path, releasedDir), 0o700); err != nil {
		return nil, nil, nil, fmt.Errorf("make the directory of address records: %w", err)
	}
	records, err := d.readRecords(log)
	if err != nil {
		return nil, nil, nil, err
	}
	free, err := d.readReleased(records)
	if err != nil {
		return nil, nil, nil, err
	}
	return d, records, free, nil
}

func (d *recordDir) readRecords(log *slog.Logger) ([]Record, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("read the address records: %w", err)
	}
	var records []Record
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		file := filepath.Join(d.path, e.Name())
		addr, err := netip.ParseAddr(e.Name())
		if err != nil && !strings.HasPrefix(e.Name(), newPrefix) {
			log.Warn("a file among the address records is none, and stays as it is", "file", file)
			continue
		}
		if err == nil {
			var r Record
			if r, err = d.read(addr); err == nil {
				records = append(records, r)
				continue
			}
			log.Warn("removing a broken address record", "file", file, "err", err)
		}
		if err := os.Remove(file); err != nil {
			return nil, fmt.Errorf("remove a broken address record: %w", err)
		}
	}
	return records, nil
}

func (d *recordDir) readReleased(records []Record) ([]released, error) {
	dir := filepath.Join(d.path, releasedDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the released addresses: %w", err)
	}
	used := make(map[netip.Addr]bool, len(records))
	for _, r := range records {
		used[r.Address] = true
	}
	// Backwards, so that the latest release of an address is the one that counts.
	var out []released
	for _, e := range slices.Backward(entries) {
		r, err := parseReleased(e.Name())
		if err == nil {
			d.seq = max(d.seq, r.seq)
			if !used[r.addr] {
				used[r.addr] = true
				out = append(out, r)
				continue
			}
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("remove a released address: %w", err)
		}
	}
	slices.Reverse(out)
	return out, nil
}

func (r released) name() string { return fmt.Sprintf("%016x-%s", r.seq, r.addr) }

func parseReleased(name string) (released, error) {
	seq, addr, ok := strings.Cut(name, "-")
	if !ok || len(seq) != 16 {
		return released{}, fmt.Errorf("%q names no released address", name)
	}
	n, err := strconv.ParseUint(seq, 16, 64)
	if err != nil {
		return released{}, err
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return released{}, err
	}
	return released{a, n}, nil
}

func (d *recordDir) file(a netip.Addr) string { return filepath.Join(d.path, a.String()) }

func (d *recordDir) read(a netip.Addr) (Record, error) {
	data, err := os.ReadFile(d.file(a))
	if err != nil {
		return Record{}, err
	}
	return parseRecord(a, data)
}

func parseRecord(a netip.Addr, data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("parse the record: %w", err)
	}
	if r.Address != a || r.Owner.ContainerID == "" {
		return Record{}, errors.New("the record lacks an owner, or is of another address")
	}
	return r, nil
}

// create makes a record. The error is fs.ErrExist if the address has one.
func (d *recordDir) create(r Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Address, err)
	}
	d.made++
	tmp := filepath.Join(d.path, newPrefix+d.run+"-"+strconv.FormatUint(d.made, 10))
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("write the record of %s: %w", r.Address, err)
	}
	err = os.Link(tmp, d.file(r.Address))
	if rerr := os.Remove(tmp); err == nil && rerr != nil {
		err = rerr
	}
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Address, err)
	}
	return nil
}

// release ends a record and returns the number of its release. A record that
// is not there is no error.
func (d *recordDir) release(a netip.Addr) (uint64, error) {
	d.seq++
	r := released{a, d.seq}
	err := os.Rename(d.file(a), filepath.Join(d.path, releasedDir, r.name()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("release the record of %s: %w", a, err)
	}
	return d.seq, nil
}

// forget removes what is left of a released record.
func (d *recordDir) forget(r released) error {
	err := os.Remove(filepath.Join(d.path, releasedDir, r.name()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the release of %s: %w", r.addr, err)
	}
	return nil
}
