package ctl

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// paint is how a cell looks on a terminal.
type paint int

const (
	plain paint = iota
	bold
	faint
	good
	bad
)

// code returns the SGR sequence that begins the look (ECMA-48, section 8.3.117).
func (p paint) code() string {
	return [...]string{plain: "", bold: "\x1b[1m", faint: "\x1b[2m", good: "\x1b[32m", bad: "\x1b[31m"}[p]
}

// cell is one field of a table.
type cell struct {
	text  string
	paint paint
}

// text returns a plain cell of the value.
func text(v any) cell { return cell{text: fmt.Sprint(v)} }

// state returns a cell that shows whether all is well.
func state(ok bool, s string) cell {
	if ok {
		return cell{s, good}
	}
	return cell{s, bad}
}

// column is a column of a table. Numbers stand to the right, and a column is left
// out when it is optional and empty.
type column struct {
	title    string
	number   bool
	optional bool
}

// table is rows under titles.
type table struct {
	columns []column
	rows    [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// gap stands between columns, indent before the first.
const (
	gap    = "  "
	indent = "  "
)

// write prints the table, with columns as wide as they need to be.
func (t *table) write(w io.Writer, color bool) error {
	titles := make([]cell, len(t.columns))
	widths := make([]int, len(t.columns))
	used := make([]bool, len(t.columns))
	for i, c := range t.columns {
		titles[i] = cell{c.title, faint}
		widths[i] = utf8.RuneCountInString(c.title)
		used[i] = !c.optional
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
			used[i] = used[i] || row[i].text != ""
		}
	}
	for _, row := range append([][]cell{titles}, t.rows...) {
		var line strings.Builder
		pending := indent
		for i, c := range row {
			if !used[i] {
				continue
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			if t.columns[i].number {
				pending += pad
				pad = ""
			}
			if c.text != "" {
				line.WriteString(pending + c.render(color))
				pending = ""
			}
			pending += pad + gap
		}
		if _, err := fmt.Fprintln(w, line.String()); err != nil {
			return err
		}
	}
	return nil
}

// render returns the cell's text, in its look if colours are shown.
func (c cell) render(color bool) string {
	if !color || c.paint == plain {
		return c.text
	}
	return c.paint.code() + c.text + "\x1b[0m"
}
