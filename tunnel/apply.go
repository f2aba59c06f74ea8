package tunnel

import "golang.org/x/sys/unix"

// apply does what a device needs. It tells whether anything was changed, and
// what was refused.
func (t *Table) apply(k *work) (changed bool, err error) {
	if k.create {
		return t.create(k)
	}
	l := k.link
	var errs []error
	do := func(m *batch) {
		refused := t.req.do(m)
		changed = changed || len(refused) < len(m.reqs)
		errs = append(errs, refused...)
	}
	var set batch
	set.setLink(k.w, l.index, k.set)
	do(&set)
	note := func(err error) {
		changed = changed || err == nil
		errs = append(errs, err)
	}
	for _, s := range k.sysctls {
		note(t.proc.write(s))
	}
	if k.set.checksumOff {
		note(t.req.txChecksumOff(l.name))
	}
	var adds, removals batch
	for _, a := range k.addrs.add {
		adds.address(stepAddAddr, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a)
	}
	for _, e := range k.fdb.add {
		adds.putFDB(l.index, e)
	}
	for _, n := range k.neigh.add {
		adds.putNeighbour(l.index, n)
	}
	if k.set.bringUp {
		adds.linkUp(l.name, l.index)
	}
	do(&adds)
	for _, a := range k.addrs.remove {
		removals.address(stepDelAddr, unix.RTM_DELADDR, 0, a)
	}
	for _, e := range k.fdb.remove {
		removals.deleteFDB(l.index, e)
	}
	for _, n := range k.neigh.remove {
		removals.deleteNeighbour(l.index, n)
	}
	do(&removals)
	return changed, explain(k.w, errs)
}

// create makes a device, in place of another where it has to.
func (t *Table) create(k *work) (changed bool, err error) {
	var m batch
	if k.replace != 0 {
		m.deleteLink(k.w.name, k.replace)
	}
	m.createLink(k.w, k.p)
	t.log.Info("making a tunnel device", "device", k.w.name, "as", k.p.String(), "replacing", k.replace != 0)
	refused := t.req.do(&m)
	return len(refused) < len(m.reqs), explain(k.w, refused)
}
