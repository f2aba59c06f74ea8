package plugin

import "unicode/utf8"

// settings is what the plugin itself reads of the network configuration.
type settings struct{ version, socket string }

// maxDepth bounds the nesting that the scanner follows; encoding/json, with
// which the agent reads the same text, gives up at the same depth.
const maxDepth = 10000

// scan finds the members "cniVersion" and "socket" of a JSON object; of several
// of a name the last counts, and one that is no string counts as empty. It
// checks no more of the text than it takes to find them: the agent reads the
// whole again. problem is not empty if the text is no object.
func scan(text []byte) (found settings, problem string) {
	s := scanner{text: text}
	s.space()
	if !s.take('{') {
		if len(text) == s.at {
			return found, "it is empty"
		}
		return found, "it does not begin with {"
	}
	s.space()
	if s.take('}') {
		return found, s.rest()
	}
	for {
		s.space()
		key, ok := s.str()
		if !ok {
			return found, "a member's name is missing or broken"
		}
		s.space()
		if !s.take(':') {
			return found, "a colon is missing after " + quote(key)
		}
		s.space()
		var value string
		if s.at < len(s.text) && s.text[s.at] == '"' {
			value, ok = s.str()
		} else {
			ok = s.skip()
		}
		if !ok {
			return found, "the value of " + quote(key) + " is broken"
		}
		switch key {
		case "cniVersion":
			found.version = value
		case "socket":
			found.socket = value
		}
		s.space()
		if s.take('}') {
			return found, s.rest()
		}
		if !s.take(',') {
			return found, "a comma is missing after " + quote(key)
		}
	}
}

type scanner struct {
	text []byte
	at   int
}

func (s *scanner) space() {
	for s.at < len(s.text) && (s.text[s.at] == ' ' || s.text[s.at] == '\t' || s.text[s.at] == '\n' || s.text[s.at] == '\r') {
		s.at++
	}
}

func (s *scanner) take(c byte) bool {
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

// rest tells what is wrong with what follows the object.
func (s *scanner) rest() string {
	if s.space(); s.at < len(s.text) {
		return "something follows the object"
	}
	return ""
}

// skip passes over a value that is no string, without looking at it closely.
func (s *scanner) skip() bool {
	start, depth := s.at, 0
	for s.at < len(s.text) {
		switch c := s.text[s.at]; c {
		case '"':
			if _, ok := s.str(); !ok {
				return false
			}
			continue
		case '{', '[':
			if depth++; depth > maxDepth {
				return false
			}
		case '}', ']':
			if depth == 0 {
				return s.at > start
			}
			depth--
		case ',':
			if depth == 0 {
				return s.at > start
			}
		}
		s.at++
	}
	return false
}

// str reads a string.
func (s *scanner) str() (string, bool) {
	if !s.take('"') {
		return "", false
	}
	start := s.at
	for s.at < len(s.text) && s.text[s.at] != '"' && s.text[s.at] != '\\' && s.text[s.at] >= ' ' && s.text[s.at] < utf8.RuneSelf {
		s.at++
	}
	out := append([]byte(nil), s.text[start:s.at]...)
	for s.at < len(s.text) {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			return string(out), true
		case c == '\\':
			s.at++
			r, ok := s.escape()
			if !ok {
				return "", false
			}
			out = utf8.AppendRune(out, r)
		case c < ' ':
			return "", false
		default:
			r, size := utf8.DecodeRune(s.text[s.at:])
			out = utf8.AppendRune(out, r)
			s.at += size
		}
	}
	return "", false
}

// escape reads what follows a backslash.
func (s *scanner) escape() (rune, bool) {
	if s.at == len(s.text) {
		return 0, false
	}
	c := s.text[s.at]
	s.at++
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
	default:
		return 0, false
	}
	high, ok := s.hex4()
	if !ok {
		return 0, false
	}
	if high < 0xd800 || high > 0xdfff {
		return high, true
	}
	// A surrogate: with its other half, one character; without, none.
	before := s.at
	if high < 0xdc00 && s.take('\\') && s.take('u') {
		if low, ok := s.hex4(); ok && low >= 0xdc00 && low <= 0xdfff {
			return (high-0xd800)<<10 | (low - 0xdc00) + 0x10000, true
		}
	}
	s.at = before
	return utf8.RuneError, true
}

func (s *scanner) hex4() (r rune, ok bool) {
	if len(s.text)-s.at < 4 {
		return 0, false
	}
	for _, c := range s.text[s.at : s.at+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	s.at += 4
	return r, true
}

// quote writes a string as JSON; what is not UTF-8 becomes U+FFFD.
func quote(s string) string {
	const hex = "0123456789abcdef"
	out := []byte{'"'}
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', byte(r))
		case r == '\n':
			out = append(out, '\\', 'n')
		case r == '\t':
			out = append(out, '\\', 't')
		case r < ' ':
			out = append(out, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			out = utf8.AppendRune(out, r)
		}
	}
	return string(append(out, '"'))
}
