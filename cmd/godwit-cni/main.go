// Command godwit-cni is Godwit's CNI plugin, executed by the container runtime.
// It hands each call to the node's agent; see package plugin.
package main

import (
	"syscall"

	"github.com/godwit-net/godwit/cni/plugin"
)

func main() {
	getenv := func(name string) string {
		value, _ := syscall.Getenv(name)
		return value
	}
	syscall.Exit(plugin.Run(plugin.Process{Getenv: getenv, Stdin: 0, Stdout: 1}))
}
