// Package plugin is all that the godwit-cni binary is made of: it hands what
// the container runtime gave it to the node's agent and prints the answer.
//
// The runtime starts a process for each call, so the start of the process is
// most of what a call costs. Measured on one machine, median of 200, start and
// one call: /bin/true 0.9 ms, this package 1.9 ms, a client by package net
// 3.1 ms, by containerd/ttrpc 4.3 ms, by grpc-go 6.6 ms; what the agent does for
// ADD takes 1.1 ms. Hence the rules of this package:
//   - It imports next to nothing (a test holds the list): no net, os, fmt,
//     encoding/json or protobuf, whose initialisation costs more than the call.
//     System calls are made directly, ttrpc frames and the few protobuf fields of
//     the contract are written by hand, and tests hold them against the real
//     ttrpc server and the generated code.
//   - It decides nothing. What the configuration means is the agent's affair;
//     only the socket and the version, for its own errors, are read here.
//   - It holds no credentials and leaves nothing behind.
package plugin

import (
	"strconv"
	"syscall"
	"time"
)

// The error codes that the plugin itself answers with, of the CNI specification.
const (
	codeEnvironment  = 4  // an environment variable is missing or makes no sense
	codeIO           = 5  // standard input can't be read
	codeDecode       = 6  // the configuration is not JSON
	codeTryAgain     = 11 // the agent is away
	codeNotAvailable = 50 // the agent is away: no ADD can be served
)

// DefaultSocket is where the agent listens if the configuration does not say.
const DefaultSocket = "/run/godwit/cni.sock"

// newestVersion is the version of errors about configurations without one.
const newestVersion = "1.1.0"

// versions is the answer to VERSION, in JSON.
const versions = `["0.4.0","1.0.0","1.1.0"]`

// Timeout bounds a call: the agent is told to give up after it, and the plugin
// does so a little later. Runtimes wait longer (the kubelet two minutes).
const Timeout = 60 * time.Second

// grace is what an agent that gave up has for saying so.
const grace = 2 * time.Second

// Process is the plugin's surroundings.
type Process struct {
	Getenv        func(string) string
	Stdin, Stdout int // file descriptors
}

// failure is an error of the CNI specification.
type failure struct {
	code         uint32
	msg, details string
}

// Run serves one execution of the plugin and returns the exit code.
func Run(p Process) int {
	command := p.Getenv("CNI_COMMAND")
	config, errno := readAll(p.Stdin)
	if errno != 0 {
		return p.fail(newestVersion, &failure{codeIO, "can't read the network configuration from standard input", errno.Error()})
	}
	settings, err := scan(config)
	version := settings.version
	if version == "" {
		version = newestVersion
	}
	method := ""
	switch command {
	case "VERSION":
		// Works without an agent, and whatever the configuration is like.
		return p.print(0, []byte(`{"cniVersion":`+quote(version)+`,"supportedVersions":`+versions+"}\n"))
	case "ADD":
		method = "Add"
	case "DEL":
		method = "Del"
	case "CHECK":
		method = "Check"
	case "GC":
		method = "GC"
	case "STATUS":
		method = "Status"
	case "":
		return p.fail(version, &failure{
			codeEnvironment, "CNI_COMMAND is not set",
			"godwit-cni is executed by the container runtime, see https://www.cni.dev/docs/spec",
		})
	default:
		return p.fail(version, &failure{codeEnvironment, "CNI_COMMAND is " + quote(command) + ", which godwit-cni does not know", ""})
	}
	if err != "" {
		return p.fail(version, &failure{codeDecode, "the network configuration is not a JSON object", err})
	}
	socket := settings.socket
	if socket == "" {
		socket = DefaultSocket
	}
	answer, failed := call(socket, method, request{
		containerID: p.Getenv("CNI_CONTAINERID"),
		netns:       p.Getenv("CNI_NETNS"),
		ifName:      p.Getenv("CNI_IFNAME"),
		args:        p.Getenv("CNI_ARGS"),
		config:      config,
	}, time.Now().Add(Timeout+grace))
	if failed != "" {
		return p.fail(version, away(command, socket, failed))
	}
	if answer.failed {
		return p.fail(version, &answer.failure)
	}
	return p.print(0, answer.result)
}

// away is the error for an agent that does not answer. It tells the runtime to
// try again, and STATUS that there is no use in trying ADD.
func away(command, socket, reason string) *failure {
	code := uint32(codeTryAgain)
	if command == "STATUS" {
		code = codeNotAvailable
	}
	return &failure{
		code, "the Godwit agent on this node does not answer, try again later",
		"the Godwit agent on this node does not answer on " + socket + " (" + reason + "): check the godwit-agent pod of this node, " +
			"`kubectl get pods -A -o wide -l app.kubernetes.io/name=godwit-agent`, and its log",
	}
}

func (p Process) fail(version string, f *failure) int {
	out := `{"cniVersion":` + quote(version) + `,"code":` + strconv.FormatUint(uint64(f.code), 10) + `,"msg":` + quote(f.msg)
	if f.details != "" {
		out += `,"details":` + quote(f.details)
	}
	return p.print(1, []byte(out+"}\n"))
}

func (p Process) print(exit int, out []byte) int {
	if errno := writeAll(p.Stdout, out); errno != 0 {
		return 1 // nobody is left to tell
	}
	return exit
}

func readAll(fd int) ([]byte, syscall.Errno) {
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := syscall.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return nil, errnoOf(err)
		case n == 0:
			return buf, 0
		default:
			buf = buf[:len(buf)+n]
		}
	}
}

func writeAll(fd int, b []byte) syscall.Errno {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return errnoOf(err)
		default:
			b = b[n:]
		}
	}
	return 0
}

func errnoOf(err error) syscall.Errno {
	if e, ok := err.(syscall.Errno); ok { //nolint:errorlint // package syscall returns nothing else
		return e
	}
	return syscall.EIO
}
