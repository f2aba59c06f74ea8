package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// communities are the names that the BGPConfig gives to communities.
type communities map[string]string

func readCommunities(list []v1alpha1.BGPCommunity) communities {
	c := make(communities, len(list))
	for _, named := range list {
		c[named.Name] = named.Value
	}
	return c
}

// numbers returns communities in decimal, each once and in the order given. An
// error names the first that has none; the others are returned all the same.
func (c communities) numbers(list []string) ([]string, error) {
	var numbers []string
	var failed error
	for _, s := range list {
		n, err := c.number(s)
		if err != nil {
			if failed == nil {
				failed = err
			}
			continue
		}
		if !slices.Contains(numbers, n) {
			numbers = append(numbers, n)
		}
	}
	return numbers, failed
}

// number returns a community in decimal: a standard one (RFC 1997) as 64512:100,
// a large one (RFC 8092) as 64512:1:2.
func (c communities) number(s string) (string, error) {
	if n := wellKnown(s); n != "" {
		return n, nil
	}
	if n, ok := c[s]; ok {
		s = n
	} else if !strings.Contains(s, ":") {
		return "", fmt.Errorf("%s is no well-known community and not in the BGPConfig's communities", s)
	}
	parts := strings.Split(s, ":")
	bits := 16
	switch len(parts) {
	case 2:
	case 3:
		bits = 32
	default:
		return "", fmt.Errorf("%s is no community: give two numbers, or three of a large one", s)
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, bits)
		if err != nil {
			return "", fmt.Errorf("%s is no community: %q is no number of %d bits", s, part, bits)
		}
		parts[i] = strconv.FormatUint(n, 10)
	}
	return strings.Join(parts, ":"), nil
}

// wellKnown returns the number of a community that IANA assigned; empty: there is
// none of that name.
func wellKnown(name string) string {
	switch name {
	case "graceful-shutdown": // RFC 8326
		return "65535:0"
	case "accept-own": // RFC 7611
		return "65535:1"
	case "llgr-stale": // RFC 9494
		return "65535:6"
	case "no-llgr": // RFC 9494
		return "65535:7"
	case "blackhole": // RFC 7999
		return "65535:666"
	case "no-export": // RFC 1997
		return "65535:65281"
	case "no-advertise": // RFC 1997
		return "65535:65282"
	case "no-export-subconfed": // RFC 1997
		return "65535:65283"
	case "no-peer": // RFC 3765
		return "65535:65284"
	}
	return ""
}
