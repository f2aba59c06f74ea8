package attach

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Times are what one contender took.
type Times struct {
	Add, Del []time.Duration // of the plugin's process
	Rest     []time.Duration // from the last DEL of a round until nothing was left to do
}

// Report is the outcome of a benchmark.
type Report struct{ Godwit, Reference Times }

func median(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(times))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func ratio(ours, theirs []time.Duration) float64 {
	return median(ours).Seconds() / median(theirs).Seconds()
}

// Met tells whether Godwit met both targets.
func (r *Report) Met() bool {
	return ratio(r.Godwit.Add, r.Reference.Add) <= ofReferenceAdd && ratio(r.Godwit.Del, r.Reference.Del) <= ofReferenceDel
}

// Write prints the report for people.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	b.WriteString("Attaching and detaching a pod, from the start of the plugin's process to its end\n\n")
	fmt.Fprintf(&b, "  %-6s %26s %26s\n", "", "Godwit (10-90%)", "ptp and host-local (10-90%)")
	for _, v := range []struct {
		name         string
		ours, theirs []time.Duration
		limit        float64
	}{
		{"ADD", r.Godwit.Add, r.Reference.Add, ofReferenceAdd},
		{"DEL", r.Godwit.Del, r.Reference.Del, ofReferenceDel},
	} {
		q := ratio(v.ours, v.theirs)
		mark := "met   "
		if q > v.limit {
			mark = "MISSED"
		}
		fmt.Fprintf(&b, "  %-6s %26s %26s   %s %.2f of the reference's median, where at most %.2f is asked for (%d runs)\n",
			v.name, spread(v.ours), spread(v.theirs), mark, q, v.limit, len(v.ours))
	}
	fmt.Fprintf(&b, "\n  After its DELs of %d pods, Godwit's agent deletes the links all at once; %.0f ms later they are gone.\n",
		podsPerRound, 1000*median(r.Godwit.Rest).Seconds())
	_, err := io.WriteString(w, b.String())
	return err
}

func spread(times []time.Duration) string {
	s := slices.Sorted(slices.Values(times))
	if len(s) == 0 {
		return "-"
	}
	ms := func(d time.Duration) float64 { return 1000 * d.Seconds() }
	return fmt.Sprintf("%.2f ms (%.2f-%.2f)", ms(median(s)), ms(s[len(s)/10]), ms(s[len(s)*9/10]))
}
