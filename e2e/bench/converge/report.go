package converge

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Report is the outcome of a benchmark.
type Report struct{ Cases []CaseReport }

// CaseReport is the outcome of a case.
type CaseReport struct {
	Case

	Results []Result
}

// Result is what one contender took, run by run.
type Result struct {
	Name, Version string
	Times         []time.Duration
}

// Median is the middle time, or the mean of the two middle ones.
func (r Result) Median() time.Duration { return median(r.Times) }

func median(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(times))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// stalled is how many times its fastest run a run takes that belongs to
// another mode.
const stalled = 3

// Better is the median of the runs that did not stall.
func (r Result) Better() time.Duration {
	limit := stalled * slices.Min(r.Times)
	return median(slices.DeleteFunc(slices.Clone(r.Times), func(t time.Duration) bool { return t > limit }))
}

func (c CaseReport) result(name string) (Result, bool) {
	i := slices.IndexFunc(c.Results, func(r Result) bool { return r.Name == name })
	if i < 0 {
		return Result{}, false
	}
	return c.Results[i], true
}

// Verdict is whether a target was met.
type Verdict struct {
	Text string
	Met  bool
}

// Verdicts judges Godwit's median by the case's targets.
func (c CaseReport) Verdicts() []Verdict {
	ours, ok := c.result("Godwit")
	if !ok {
		return nil
	}
	var out []Verdict
	judge := func(limit float64, name, what string, of func(Result) time.Duration) {
		theirs, ok := c.result(name)
		if limit == 0 || !ok {
			return
		}
		ratio := ours.Median().Seconds() / of(theirs).Seconds()
		out = append(out, Verdict{
			Text: fmt.Sprintf("%.2f of %s (%.3f s), where at most %.2f is asked for", ratio, what, of(theirs).Seconds(), limit),
			Met:  ratio <= limit,
		})
	}
	judge(c.OfFRR, "FRR", "FRR's time", Result.Median)
	judge(c.OfBIRD, "BIRD", "the time of BIRD's better mode", Result.Better)
	return out
}

// Met says whether all targets of all cases were met.
func (r *Report) Met() bool {
	for _, c := range r.Cases {
		for _, v := range c.Verdicts() {
			if !v.Met {
				return false
			}
		}
	}
	return true
}

// Write prints the report for people.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	b.WriteString("From a BGP session coming up to the last route in the kernel\n")
	for _, c := range r.Cases {
		fmt.Fprintf(&b, "\n  %-40s %10s %10s %10s\n", fmt.Sprintf("%d prefixes over %d next hops", c.Prefixes, c.Hops), "median", "min", "max")
		for _, x := range c.Results {
			fmt.Fprintf(&b, "    %-38s %8.3f s %8.3f s %8.3f s   (%d runs)\n", x.Name+" "+x.Version,
				x.Median().Seconds(), slices.Min(x.Times).Seconds(), slices.Max(x.Times).Seconds(), len(x.Times))
		}
		for _, v := range c.Verdicts() {
			mark := "met   "
			if !v.Met {
				mark = "MISSED"
			}
			fmt.Fprintf(&b, "    %s Godwit takes %s\n", mark, v.Text)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
