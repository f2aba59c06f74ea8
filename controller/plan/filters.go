package plan

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// purpose is what a peer uses a filter for: some conditions and changes say
// something only of some routes.
type purpose struct {
	export   bool // of what is announced; else of what is taken
	internal bool // the router is of the nodes' own AS
	// rewrites is the option of the peer by which AS paths are changed before its
	// export filters see them; empty: none.
	rewrites string
}

// filters knows the BGPFilters by name and what their rules are in a plan.
type filters struct {
	objects     map[string]*v1alpha1.BGPFilter
	communities communities
	read        map[filterUse]filterRules // those read so far
}

type filterUse struct {
	name string
	purpose
}

type filterRules struct {
	rules []v1alpha1.BGPFilterRule
	err   error
}

// fault says why a filter can't be used.
type fault struct{ reason, message string }

func newFilters(objects []v1alpha1.BGPFilter, c communities) *filters {
	f := &filters{
		objects:     make(map[string]*v1alpha1.BGPFilter, len(objects)),
		communities: c,
		read:        make(map[filterUse]filterRules, len(objects)),
	}
	for i := range objects {
		f.objects[objects[i].Name] = &objects[i]
	}
	return f
}

// join joins the rules of filters. It stops at the first filter that can't be
// used and says why: what it might have rejected can't be known, so that no rule
// after it may accept anything.
func (f *filters) join(names []string, use purpose) ([]v1alpha1.BGPFilterRule, *fault) {
	var joined []v1alpha1.BGPFilterRule
	for _, name := range names {
		if f.objects[name] == nil {
			return joined, &fault{ReasonFilterNotFound, fmt.Sprintf("BGPFilter %s does not exist", name)}
		}
		r := f.rules(name, use)
		if r.err != nil {
			return joined, &fault{ReasonInvalidFilter, fmt.Sprintf("BGPFilter %s: %v", name, r.err)}
		}
		joined = append(joined, r.rules...)
	}
	return joined, nil
}

// rules returns the rules of a filter that is there, with communities as numbers.
func (f *filters) rules(name string, use purpose) filterRules {
	key := filterUse{name, use}
	if r, ok := f.read[key]; ok {
		return r
	}
	var out filterRules
	for i, r := range f.objects[name].Spec.Rules {
		resolved, err := f.rule(r, use)
		if err != nil {
			out = filterRules{err: fmt.Errorf("rules[%d].%w", i, err)}
			break
		}
		out.rules = append(out.rules, resolved)
	}
	f.read[key] = out
	return out
}

// rule checks a rule and returns it with communities as numbers. Errors begin
// with the field.
func (f *filters) rule(r v1alpha1.BGPFilterRule, use purpose) (v1alpha1.BGPFilterRule, error) {
	if err := checkRule(&r, use); err != nil {
		return r, err
	}
	var err error
	if r.Communities, err = f.communities.numbers(r.Communities); err != nil {
		return r, fmt.Errorf("communities: %w", err)
	}
	if r.Set == nil {
		return r, nil
	}
	set := *r.Set
	r.Set = &set
	if set.AddCommunities, err = f.communities.numbers(set.AddCommunities); err != nil {
		return r, fmt.Errorf("set.addCommunities: %w", err)
	}
	if set.RemoveCommunities, err = f.communities.numbers(set.RemoveCommunities); err != nil {
		return r, fmt.Errorf("set.removeCommunities: %w", err)
	}
	if reflect.ValueOf(set).IsZero() {
		r.Set = nil // of empty lists only, which a plan leaves out; the API takes no empty set
	}
	return r, nil
}

// checkRule reports what makes no sense in a rule, or not for its purpose, beside
// communities.
func checkRule(r *v1alpha1.BGPFilterRule, use purpose) error {
	if r.CIDR != "" {
		if _, err := parseCIDR(r.CIDR); err != nil {
			return fmt.Errorf("cidr: %w", err)
		}
	}
	switch {
	case !use.export && r.Source != "":
		return errors.New("source: it tells announced routes apart: leave it out of import filters, whose routes are all the peer's")
	case !use.export && r.PeerType != "":
		return errors.New("peerType: it tells announced routes apart: leave it out of import filters, whose routes are all the peer's")
	}
	if _, err := regexp.Compile(r.CommunityRegex); err != nil {
		return fmt.Errorf("communityRegex: %w", err)
	}
	if err := checkASPath(r.ASPathRegex); err != nil {
		return fmt.Errorf("asPathRegex: %w", err)
	}
	if use.rewrites != "" && r.ASPathRegex != "" {
		return fmt.Errorf("asPathRegex: the peer's %s changes AS paths before its export filters see them: leave one of the two out, or have import filters add a community to such routes and match that", use.rewrites)
	}
	switch {
	case r.Set == nil:
	case use.export && !use.internal && r.Set.LocalPref != nil:
		return errors.New("set.localPref: it is not sent to routers of another AS: use med or prepend in their export filters")
	case use.export && use.internal && r.Set.Prepend > 0:
		return errors.New("set.prepend: routers of the nodes' own AS would take the route for a loop: use localPref in their export filters")
	}
	return nil
}

// checkASPath reports why an expression for AS paths can't be read: "_" in it
// stands for a space, the beginning or the end.
func checkASPath(expr string) error {
	_, err := regexp.Compile(strings.ReplaceAll(expr, "_", "(?:^| |$)"))
	if err == nil {
		return nil
	}
	if _, plain := regexp.Compile(expr); plain != nil {
		return plain // names the expression as it was written
	}
	return err
}
