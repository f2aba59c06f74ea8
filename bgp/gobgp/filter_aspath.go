package gobgp

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/godwit-net/godwit/bgp"
)

// behind translates an expression for an AS path into one for the same path
// with asn before it. GoBGP puts our AS number before a path, for external peers,
// ahead of the export policy; rules speak of paths as they are in our table.
//
// An expression matches at the beginning of the path, where what stands for the
// beginning now stands for our number, or somewhere after our number.
func behind(asn uint32, expression string) string {
	number := fmt.Sprintf("%d(?:$| )", asn)
	re, err := syntax.Parse(strings.ReplaceAll(expression, "_", bgp.ASPathBoundary), syntax.Perl)
	if err != nil {
		return "^$x" // matches nothing; Config.Usable refuses such an expression
	}
	re = re.Simplify() // which leaves no counted repetitions
	later := fmt.Sprintf("%d(?:$| (?:.*))(?:%s)", asn, re)
	if first := atBeginning(re, number); len(first) > 0 {
		return fmt.Sprintf("^(?:%s|%s)", strings.Join(first, "|"), later)
	}
	return "^" + later
}

// moreThan is an expression for AS paths with asn in them more than so many times.
func moreThan(times int, asn uint32) string {
	const between = "[,{}() ]"
	return fmt.Sprintf("(?:^|%s)%d(?:%s(?:.*%s)?%d){%d}(?:%s|$)", between, asn, between, between, asn, times, between)
}

// atBeginning lists the ways in which an expression matches only at the
// beginning, each with the beginning replaced.
func atBeginning(re *syntax.Regexp, number string) []string {
	switch re.Op {
	case syntax.OpBeginText, syntax.OpBeginLine:
		return []string{number}
	case syntax.OpCapture, syntax.OpQuest:
		return atBeginning(re.Sub[0], number)
	case syntax.OpPlus, syntax.OpStar:
		var out []string
		for _, first := range atBeginning(re.Sub[0], number) {
			out = append(out, first+"(?:"+re.Sub[0].String()+")*")
		}
		return out
	case syntax.OpAlternate:
		var out []string
		for _, sub := range re.Sub {
			out = append(out, atBeginning(sub, number)...)
		}
		return out
	case syntax.OpConcat:
		rest := ""
		for _, sub := range re.Sub[1:] {
			rest += "(?:" + sub.String() + ")"
		}
		var out []string
		for _, first := range atBeginning(re.Sub[0], number) {
			out = append(out, first+rest)
		}
		if len(re.Sub) > 1 && emptyAtBeginning(re.Sub[0]) { // as in "^_65001"
			out = append(out, atBeginning(&syntax.Regexp{Op: syntax.OpConcat, Sub: re.Sub[1:]}, number)...)
		}
		return out
	}
	return nil
}

// emptyAtBeginning reports whether an expression matches nothing at the
// beginning, so that what follows is at the beginning as well.
func emptyAtBeginning(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginText, syntax.OpBeginLine, syntax.OpEmptyMatch, syntax.OpStar, syntax.OpQuest:
		return true
	case syntax.OpCapture, syntax.OpPlus:
		return emptyAtBeginning(re.Sub[0])
	case syntax.OpAlternate:
		return slices.ContainsFunc(re.Sub, emptyAtBeginning)
	case syntax.OpConcat:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !emptyAtBeginning(sub) })
	}
	return false
}
