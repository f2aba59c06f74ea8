package lab

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Progress tells a person what goes on, one line a step, with the time that
// each took. It writes plain lines, so that a log file reads as a screen does.
type Progress struct {
	out   io.Writer
	start time.Time
}

// NewProgress returns a Progress that writes to out.
func NewProgress(out io.Writer) *Progress { return &Progress{out: out, start: time.Now()} }

// stepWidth is the column at which the outcome of a step stands.
const stepWidth = 66

// Step does one thing and tells of it.
func (p *Progress) Step(what string, do func() error) error {
	_, _ = fmt.Fprintf(p.out, "  %s %s ", what, strings.Repeat("·", max(1, stepWidth-utf8.RuneCountInString(what))))
	begin := time.Now()
	err := do()
	mark := "✓"
	if err != nil {
		mark = "✗"
	}
	_, _ = fmt.Fprintf(p.out, "%5.1fs %s\n", time.Since(begin).Seconds(), mark)
	return err
}

// Heading starts a part.
func (p *Progress) Heading(text string) { _, _ = fmt.Fprintf(p.out, "\n%s\n", text) }

// Block prints text, indented.
func (p *Progress) Block(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		_, _ = fmt.Fprintf(p.out, "  %s\n", strings.TrimRight(line, " \n"))
	}
}

// Elapsed is the time since the beginning.
func (p *Progress) Elapsed() time.Duration { return time.Since(p.start) }
