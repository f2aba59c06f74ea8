package bgp

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// maxPrepend bounds Attributes.Prepend: routers drop paths that are much longer.
const maxPrepend = 32

func checkRules(rules []Rule) error {
	for i, r := range rules {
		if err := r.check(); err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return nil
}

func (r Rule) check() error {
	if err := r.Match.check(); err != nil {
		return err
	}
	return r.Set.check()
}

func (m Match) check() error {
	for _, r := range m.Ranges {
		if err := r.check(); err != nil {
			return err
		}
	}
	if err := checkCommunities(m.Communities); err != nil {
		return err
	}
	if _, err := regexp.Compile(m.CommunityRegexp); err != nil {
		return fmt.Errorf("the regular expression of communities: %w", err)
	}
	if _, err := regexp.Compile(strings.ReplaceAll(m.ASPathRegexp, "_", ASPathBoundary)); err != nil {
		return fmt.Errorf("the regular expression of AS paths %q: %w", m.ASPathRegexp, err)
	}
	if m.Source < SourceAny || m.Source > SourceLearned {
		return fmt.Errorf("%d is not a source of routes", m.Source)
	}
	return nil
}

func (a Attributes) check() error {
	if a.Prepend < 0 || a.Prepend > maxPrepend {
		return fmt.Errorf("our AS number may be prepended from 0 to %d times, not %d times", maxPrepend, a.Prepend)
	}
	if a.LocalPref != nil && *a.LocalPref == 0 {
		return errors.New("a rule can't set the local preference 0: 1 is the lowest")
	}
	if err := checkCommunities(a.AddCommunities); err != nil {
		return err
	}
	return checkCommunities(a.RemoveCommunities)
}

// checkCommunities wants each as two numbers of 16 bits (RFC 1997) or three of
// 32 (RFC 8092), in decimal and without leading zeros: the form in which routes
// show theirs.
func checkCommunities(cs []string) error {
	for _, c := range cs {
		parts := strings.Split(c, ":")
		bits := map[int]int{2: 16, 3: 32}[len(parts)]
		if bits == 0 {
			return fmt.Errorf(`the community %q must have the form "64512:100" or "64512:1:2"`, c)
		}
		for _, part := range parts {
			if n, err := strconv.ParseUint(part, 10, bits); err != nil || strconv.FormatUint(n, 10) != part {
				return fmt.Errorf("the community %q: %q must be a decimal number from 0 to %d, without leading zeros", c, part, uint64(1)<<bits-1)
			}
		}
	}
	return nil
}
