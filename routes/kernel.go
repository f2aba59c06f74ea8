package routes

import (
	"errors"
	"time"
)

// kernel is what a table needs of a kernel. Its methods, but wake, are called
// by one goroutine.
type kernel interface {
	// snapshot tells all links, all routes of the table's kernel table and of the
	// main table, and all nexthop objects, as events. What changes meanwhile is told
	// by events, too.
	snapshot() (snapshot, error)
	// write does the requests in their order, whether or not earlier ones fail,
	// and sets the err of those that failed.
	write(reqs []request) error
	// events returns what others than write changed since the last call, without
	// waiting. With errOverflow some of it is lost.
	events() ([]event, error)
	// wait returns when there are events, after wake, or after d.
	wait(d time.Duration) error
	// wake ends a wait, the present one or the next. It may be called at any time
	// from any goroutine, also after close.
	wake()
	close() error
}

// errOverflow says that events were lost, so that a new snapshot is needed.
var errOverflow = errors.New("netlink notifications were lost")

// snapshot is the state of the kernel.
type snapshot struct {
	events []event
	// objects says that the kernel has nexthop objects.
	objects bool
}

// writeMode says what a request to write does with what is there.
type writeMode int

const (
	modeCreate  writeMode = iota // fails with EEXIST when something is there
	modeReplace                  // fails with ENOENT when nothing is there
	modePut                      // writes in any case
	modeDelete                   // fails with ESRCH or ENOENT when nothing is there
)

// request is a change of one route or nexthop object.
type request struct {
	mode   writeMode
	route  *kernelRoute
	object *kernelObject

	err  error           // the kernel's answer
	done func(err error) // what the answer means to whoever asked
}
