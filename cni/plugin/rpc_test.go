package plugin

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	cniapi "github.com/godwit-net/godwit/api/cni"
)

// The hand-written encoding against the generated code.
func FuzzFrame(f *testing.F) {
	f.Add("Add", "4fe1", "/run/netns/x", "eth0", "K=V", []byte(`{}`))
	f.Add("", "", "", "", "", bytes.Repeat([]byte{'x'}, 300))
	f.Fuzz(func(t *testing.T, method, id, netns, ifName, args string, config []byte) {
		frame := frameOf(method, request{id, netns, ifName, args, config})
		if n := binary.BigEndian.Uint32(frame); int(n) != len(frame)-headerSize || frame[7] != 1 || frame[8] != 1 || frame[9] != 0 {
			t.Fatalf("header % x of %d bytes", frame[:headerSize], len(frame))
		}
		var outer ttrpc.Request
		var inner cniapi.Request
		if proto.Unmarshal(frame[headerSize:], &outer) != nil || proto.Unmarshal(outer.GetPayload(), &inner) != nil {
			return // strings that are no UTF-8, which the agent refuses
		}
		want := &cniapi.Request{ContainerId: id, Netns: netns, IfName: ifName, Args: args, Config: config}
		if outer.GetService() != "godwit.cni.v1.CNI" || outer.GetMethod() != method || time.Duration(outer.GetTimeoutNano()) != Timeout || !proto.Equal(&inner, want) {
			t.Errorf("%v, %v", &outer, &inner)
		}
	})
}

func TestDecodeAnswer(t *testing.T) {
	encode := func(s *status.Status, r *cniapi.Response) []byte {
		t.Helper()
		payload, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		out, err := proto.Marshal(&ttrpc.Response{Status: s, Payload: payload})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	long := bytes.Repeat([]byte("x"), 1000)
	got, problem := decodeAnswer(encode(nil, &cniapi.Response{Result: long}))
	if problem != "" || got.failed || !bytes.Equal(got.result, long) {
		t.Errorf("%+v, %q", got, problem)
	}
	got, problem = decodeAnswer(encode(&status.Status{}, &cniapi.Response{Error: &cniapi.Error{Code: 101, Msg: "m", Details: "d"}}))
	if problem != "" || !got.failed || got.failure != (failure{101, "m", "d"}) {
		t.Errorf("%+v, %q", got, problem)
	}
	if _, problem = decodeAnswer(encode(&status.Status{Code: 12, Message: "no such service"}, nil)); problem != "it answers with status 12: no such service" {
		t.Errorf("%q", problem)
	}
	if got, problem = decodeAnswer(nil); problem != "" || got.failed || got.result != nil {
		t.Errorf("%+v, %q", got, problem)
	}
	if _, problem = decodeAnswer([]byte{0x12, 0x7f}); problem != "its answer is garbled" {
		t.Errorf("%q", problem)
	}
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add([]byte{0x12, 2, 0x0a, 0})
	f.Add([]byte{0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{9, 0, 0, 0, 0, 0, 0, 0, 0, 0x0d, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, problem := decodeAnswer(b)
		var outer ttrpc.Response
		var inner cniapi.Response
		if proto.Unmarshal(b, &outer) != nil || outer.GetStatus().GetCode() != 0 || proto.Unmarshal(outer.GetPayload(), &inner) != nil {
			return
		}
		if len(outer.ProtoReflect().GetUnknown()) > 0 || len(inner.ProtoReflect().GetUnknown()) > 0 {
			return // a field in another form than the contract's
		}
		if problem != "" || !bytes.Equal(got.result, inner.GetResult()) {
			t.Errorf("% x: %+v, %q; want %v", b, got, problem, &inner)
		}
	})
}
