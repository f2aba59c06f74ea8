package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// mostReturned is how many returned blocks are remembered: those since the last
// snapshot of etcd that may be restored.
const mostReturned = 1024

// returned remembers the IPBlocks that this node gave back, by their UIDs and on
// disk. When one is there again, etcd was restored from a snapshot: another node
// may have claimed the block since, so it must not be taken for this node's.
type returned struct {
	file string
	log  *slog.Logger

	mu   sync.Mutex
	uids []types.UID // oldest first
}

// openReturned reads what an earlier agent has written. It returns something to
// go on with also when it fails.
func openReturned(file string, log *slog.Logger) (*returned, error) {
	r := &returned{file: file, log: log}
	data, err := os.ReadFile(file) // #nosec G304 -- the operator's own folder
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r.uids)
	}
	if err != nil {
		return r, fmt.Errorf("read the blocks that were given back: %w", err)
	}
	return r, nil
}

// add remembers an IPBlock, before it is deleted. Where the file can't be written it
// is remembered in memory, and the block given back all the same: only an agent that
// starts after a restore of etcd misses the file, while another node may wait for the
// block. The next one that is given back is written with all before it.
func (r *returned) add(uid types.UID) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.uids, uid) {
		return
	}
	r.uids = append(slices.Clone(r.uids[max(0, len(r.uids)-mostReturned+1):]), uid)
	data, err := json.Marshal(r.uids)
	if err == nil {
		err = writeFile(r.file, data, 0o600)
	}
	if err != nil {
		r.log.Warn("a block that is given back can't be noted for the next agent (can the state folder be written?): after a restore of etcd "+
			"that agent would take the block for its own", "error", err)
	}
}

// has tells whether an IPBlock was given back.
func (r *returned) has(uid types.UID) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.uids, uid)
}
