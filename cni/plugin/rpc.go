package plugin

import (
	"strconv"
	"syscall"
	"time"
)

// A ttrpc message is a header of 10 bytes (length of what follows, stream id,
// both big-endian, type, flags) and a protobuf message; see PROTOCOL.md of
// github.com/containerd/ttrpc. A unary call is one request and one response.
const (
	headerSize   = 10
	maxMessage   = 4 << 20
	typeRequest  = 1
	typeResponse = 2
	streamID     = 1
	service      = "godwit.cni.v1.CNI"
)

// request is the contract's Request.
type request struct {
	containerID, netns, ifName, args string
	config                           []byte
}

// response is the contract's Response.
type response struct {
	result  []byte
	failed  bool
	failure failure
}

// call makes one call and gives up at the deadline. problem is not empty if
// there was no answer.
func call(socket, method string, r request, deadline time.Time) (answer response, problem string) {
	frame := frameOf(method, r)
	if len(frame) > headerSize+maxMessage {
		return answer, "the network configuration is too large, " + strconv.Itoa(len(r.config)) + " bytes"
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return answer, "open a socket: " + err.Error()
	}
	defer func() { _ = syscall.Close(fd) }()
	c := conn{fd: fd, deadline: deadline}
	if err := c.limit(syscall.SO_SNDTIMEO); err != "" {
		return answer, err
	}
	// While the agent is away this fails at once; a queue of waiting callers that is
	// full holds it up until the deadline.
	for {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket})
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return answer, "connect: " + err.Error()
	}
	if errno := writeAll(fd, frame); errno != 0 {
		return answer, "send: " + errno.Error()
	}
	for {
		var header [headerSize]byte
		if problem := c.readFull(header[:]); problem != "" {
			return answer, problem
		}
		size := uint32(header[0])<<24 | uint32(header[1])<<16 | uint32(header[2])<<8 | uint32(header[3])
		if size > maxMessage {
			return answer, "its answer is too large"
		}
		body := make([]byte, size)
		if problem := c.readFull(body); problem != "" {
			return answer, problem
		}
		if header[8] == typeResponse && header[7] == streamID {
			return decodeAnswer(body)
		}
	}
}

func frameOf(method string, r request) []byte {
	payload := appendString(nil, 1, r.containerID)
	payload = appendString(payload, 2, r.netns)
	payload = appendString(payload, 3, r.ifName)
	payload = appendString(payload, 4, r.args)
	payload = appendString(payload, 5, string(r.config))

	body := appendString(make([]byte, headerSize), 1, service)
	body = appendString(body, 2, method)
	body = appendString(body, 3, string(payload))
	body = appendVarint(append(body, 4<<3), uint64(Timeout)) // timeout_nano
	size := len(body) - headerSize
	copy(body, []byte{
		byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size),
		0, 0, 0, streamID, typeRequest, 0,
	})
	return body
}

// conn is a socket whose reading ends at a deadline.
type conn struct {
	fd       int
	deadline time.Time
}

func (c conn) limit(option int) (problem string) {
	left := time.Until(c.deadline)
	if left <= 0 {
		return "it took too long"
	}
	tv := syscall.NsecToTimeval(int64(left))
	if tv.Sec == 0 && tv.Usec == 0 {
		tv.Usec = 1 // 0 would be without limit
	}
	if err := syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, option, &tv); err != nil {
		return "set a timeout: " + err.Error()
	}
	return ""
}

func (c conn) readFull(b []byte) (problem string) {
	for len(b) > 0 {
		if problem := c.limit(syscall.SO_RCVTIMEO); problem != "" {
			return problem
		}
		n, err := syscall.Read(c.fd, b)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return "it took too long"
		case err != nil:
			return "receive: " + err.Error()
		case n == 0:
			return "it went away during the call"
		default:
			b = b[n:]
		}
	}
	return ""
}

// decodeAnswer reads ttrpc's Response, a status and, if that is well, the
// contract's Response.
func decodeAnswer(body []byte) (answer response, problem string) {
	var status, payload []byte
	if !fields(body, func(n int, _ uint64, b []byte) {
		switch n {
		case 1:
			status = b
		case 2:
			payload = b
		}
	}) {
		return answer, "its answer is garbled"
	}
	var code uint64
	var msg string
	if !fields(status, func(n int, v uint64, b []byte) {
		switch n {
		case 1:
			code = v
		case 2:
			msg = string(b)
		}
	}) {
		return answer, "its answer is garbled"
	}
	if code != 0 {
		return answer, "it answers with status " + strconv.FormatUint(code, 10) + ": " + msg
	}
	return decodeResponse(payload)
}

func decodeResponse(payload []byte) (answer response, problem string) {
	ok := fields(payload, func(n int, _ uint64, b []byte) {
		switch n {
		case 1:
			answer.result = b
		case 2:
			answer.failed = true
			if !fields(b, func(n int, v uint64, b []byte) {
				switch n {
				case 1:
					answer.failure.code = uint32(v)
				case 2:
					answer.failure.msg = string(b)
				case 3:
					answer.failure.details = string(b)
				}
			}) {
				problem = "its answer is garbled"
			}
		}
	})
	if !ok {
		problem = "its answer is garbled"
	}
	return answer, problem
}

// The wire types of protobuf.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

func appendVarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// appendString adds a field of type string or bytes, unless it is empty.
func appendString(b []byte, field int, s string) []byte {
	if s == "" {
		return b
	}
	b = append(b, byte(field<<3|wireBytes))
	b = appendVarint(b, uint64(len(s)))
	return append(b, s...)
}

func varint(b []byte) (v uint64, n int) {
	for n < len(b) && n < 10 {
		v |= uint64(b[n]&0x7f) << (7 * n)
		if n++; b[n-1] < 0x80 {
			return v, n
		}
	}
	return 0, 0
}

// fields calls f for each varint and bytes field of a message, and passes over
// others; false if the message is broken.
func fields(b []byte, f func(field int, v uint64, data []byte)) bool {
	for len(b) > 0 {
		key, n := varint(b)
		if n == 0 {
			return false
		}
		b = b[n:]
		v, data, size := uint64(0), []byte(nil), 0
		switch key & 7 {
		case wireVarint:
			if v, size = varint(b); size == 0 {
				return false
			}
		case wire64:
			size = 8
		case wire32:
			size = 4
		case wireBytes:
			length, n := varint(b)
			if n == 0 || length > uint64(len(b)-n) {
				return false
			}
			size = n + int(length)
			data = b[n:size]
		default:
			return false
		}
		if size > len(b) {
			return false
		}
		if b = b[size:]; key&7 == wireVarint || key&7 == wireBytes {
			f(int(key>>3), v, data)
		}
	}
	return true
}
