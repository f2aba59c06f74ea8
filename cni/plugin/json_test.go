package plugin

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestScan(t *testing.T) {
	for text, want := range map[string]settings{
		`{}`:                            {},
		`{"cniVersion":"1.0.0"}`:        {version: "1.0.0"},
		`{"socket":"/a","socket":"/b"}`: {socket: "/b"},
		"\t{ \"socket\" : \"\\/a\\u0041\\n\" }\n":         {socket: "/aA\n"},
		`{"x":{"socket":"/no"},"y":[{}]}`:                 {},
		`{"x":"}","cniVersion":"1.1.0"}`:                  {version: "1.1.0"},
		`{"socket":7,"cniVersion":null}`:                  {},
		`{"a":-1.5e3,"b":true,"socket":"/s","c":["\"]"]}`: {socket: "/s"},
		`{"socket":"\ud83d\ude00\ud83d"}`:                 {socket: "😀\ufffd"},
	} {
		if got, problem := scan([]byte(text)); got != want || problem != "" {
			t.Errorf("%s: %+v, %q, want %+v", text, got, problem, want)
		}
	}
	for text, want := range map[string]string{
		``: "it is empty", ` `: "it is empty", `[]`: "it does not begin with {", `{`: "a member's name is missing or broken",
		`{"a"}`: `a colon is missing after "a"`, `{"a":}`: `the value of "a" is broken`, `{"a":1`: `the value of "a" is broken`,
		`{"a":"b" "c"}`: `a comma is missing after "a"`, `{"a":1}x`: "something follows the object", `{} {}`: "something follows the object",
		`{"a":"\x"}`: `the value of "a" is broken`, `{"a":"` + "\n" + `"}`: `the value of "a" is broken`,
		strings.Repeat(`{"a":`, maxDepth+2): `the value of "a" is broken`,
	} {
		if _, problem := scan([]byte(text)); problem != want {
			t.Errorf("%.40s: %q, want %q", text, problem, want)
		}
	}
}

// Whatever is a JSON object must be read as encoding/json reads it.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{"cniVersion":"1.1.0","name":"n","socket":"/run/godwit/cni.sock","dns":{},"prevResult":{"ips":[{"address":"1.2.3.4/32"}]}}`,
		`{"socket":"\u00e9\ud83d\ude00\ud800","cniVersion":"\"\\\/\b\f\n\r\t"}`, `{"a":[1,2,{"b":"]"}],"socket":null}`, "{\"socket\":\"\xff\"}", `{"socket":"a","socket":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, problem := scan(text)
		var members map[string]any
		if json.Unmarshal(text, &members) != nil || members == nil {
			return
		}
		version, _ := members["cniVersion"].(string)
		socket, _ := members["socket"].(string)
		if problem != "" || got.version != version || got.socket != socket {
			t.Errorf("%q: %+v, %q, want %q and %q", text, got, problem, version, socket)
		}
	})
}

func FuzzQuote(f *testing.F) {
	f.Add("plain")
	f.Add("\x00\x1f\"\\\n\t\u2028é\xff")
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		if err := json.Unmarshal([]byte(quote(s)), &back); err != nil || back != string([]rune(s)) {
			t.Errorf("%q: %s, %v", s, quote(s), err)
		}
	})
}
