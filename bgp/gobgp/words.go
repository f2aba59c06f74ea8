package gobgp

import "fmt"

// Codes of NOTIFICATION messages (RFC 4271, section 4.5).
const (
	codeOpen         = 2
	codeHold         = 4
	codeFSM          = 5
	codeCease        = 6
	subcodeBadAS     = 2
	subcodeMaxPref   = 1
	subcodeCollision = 7
)

// notification puts a NOTIFICATION's code and subcode into words (RFC 4271,
// section 4.5; RFC 4486; RFC 6608; RFC 7313; RFC 8203; RFC 8538; RFC 9234;
// RFC 9384; RFC 9687).
func notification(code, sub int) string {
	class, known := map[int]string{
		1: "error in a message header", codeOpen: "error in OPEN", 3: "error in UPDATE",
		codeHold: "hold time over without a keepalive", codeFSM: "message out of turn", codeCease: "cease",
		7: "error in ROUTE-REFRESH", 8: "nothing could be sent for too long",
	}[code]
	if !known {
		return fmt.Sprintf("notification %d/%d", code, sub)
	}
	detail := map[[2]int]string{
		{1, 1}: "not synchronized", {1, 2}: "bad length", {1, 3}: "bad type",
		{codeOpen, 1}: "unsupported version", {codeOpen, subcodeBadAS}: "unexpected AS number",
		{codeOpen, 3}: "bad BGP identifier (is the same router id used twice?)",
		{codeOpen, 4}: "unsupported optional parameter", {codeOpen, 6}: "unacceptable hold time",
		{codeOpen, 7}:  "unsupported capability",
		{codeOpen, 11}: "the two ends' roles do not fit together",
		{3, 1}:         "malformed attribute list", {3, 2}: "unrecognized well-known attribute",
		{3, 3}: "missing well-known attribute", {3, 4}: "wrong attribute flags", {3, 5}: "wrong attribute length",
		{3, 6}: "invalid ORIGIN", {3, 8}: "invalid NEXT_HOP", {3, 9}: "error in an optional attribute",
		{3, 10}: "invalid prefix", {3, 11}: "malformed AS_PATH",
		{codeFSM, 1}: "in OpenSent", {codeFSM, 2}: "in OpenConfirm", {codeFSM, 3}: "in Established",
		{7, 1}:                      "bad length",
		{codeCease, subcodeMaxPref}: "maximum number of prefixes reached",
		{codeCease, 2}:              "administrative shutdown", {codeCease, 3}: "peer no longer configured",
		{codeCease, 4}: "administrative reset", {codeCease, 5}: "connection rejected",
		{codeCease, 6}: "configuration changed", {codeCease, subcodeCollision}: "connection collision",
		{codeCease, 8}: "out of resources", {codeCease, 9}: "hard reset", {codeCease, 10}: "BFD down",
	}[[2]int{code, sub}]
	switch {
	case detail != "" && code == codeCease:
		return detail
	case detail != "":
		return class + ": " + detail
	case sub > 0:
		return fmt.Sprintf("%s (subcode %d)", class, sub)
	}
	return class
}

// hint says what to look at, where a NOTIFICATION that we sent leaves no doubt.
func (p *page) hint(code, sub int) string {
	if code != codeOpen || sub != subcodeBadAS {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf(" (%d is configured)", p.peer.ASN)
}
