package bgp

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

// gentle are the fields of a Peer that change without a reset.
var gentle = []string{"Name", "Kind", "Import", "Export", "Owned", "NextHop", "Reflection", "MaxPrefixes", "WarnPrefixes", "Families"}

func TestResetForEachField(t *testing.T) {
	fields := reflect.TypeFor[Peer]()
	for i := range fields.NumField() {
		name := fields.Field(i).Name
		var p Peer
		field := reflect.ValueOf(&p).Elem().Field(i)
		switch field.Interface().(type) {
		case netip.Addr:
			field.Set(reflect.ValueOf(netip.MustParseAddr("10.0.0.9")))
		case []Rule:
			field.Set(reflect.ValueOf([]Rule{{Accept: true}}))
		case []netip.Prefix:
			field.Set(reflect.ValueOf([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/26")}))
		default:
			switch field.Kind() {
			case reflect.String:
				field.SetString("other")
			case reflect.Bool:
				field.SetBool(true)
			case reflect.Int, reflect.Int64:
				field.SetInt(1)
			default:
				field.SetUint(1)
			}
		}
		words := Peer{}.ResetFor(p)
		if reset := len(words) > 0; reset == slices.Contains(gentle, name) {
			t.Errorf("%s: the session is reset for %q", name, words)
		}
	}
}

func TestResetForWords(t *testing.T) {
	was := Peer{Hold: 9 * time.Second, Password: "a"}
	for _, tc := range []struct {
		name   string
		change func(*Peer)
		want   []string
	}{
		{"nothing", func(*Peer) {}, nil},
		{"defaults by name", func(p *Peer) {
			p.Port, p.Keepalive, p.ConnectRetry = DefaultPort, 3*time.Second, DefaultConnectRetry
		}, nil},
		{"two at once", func(p *Peer) { p.Password, p.GTSMHops = "b", 1 }, []string{"password", "TTL security"}},
		{"the hold time takes the keepalive time along", func(p *Peer) { p.Hold = 12 * time.Second }, []string{"hold time", "keepalive time"}},
	} {
		next := was
		tc.change(&next)
		if got := was.ResetFor(next); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, not %q", tc.name, got, tc.want)
		}
	}
}
