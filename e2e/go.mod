module github.com/godwit-net/godwit/e2e

go 1.26.0

require (
	github.com/vishvananda/netlink v1.3.1
	github.com/vishvananda/netns v0.0.5
	golang.org/x/sys v0.48.0
)

replace github.com/godwit-net/godwit => ../
