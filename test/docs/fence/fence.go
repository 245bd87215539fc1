// Package fence finds the code blocks of Markdown pages, for the tests that run
// them.
package fence

import (
	"regexp"
	"strings"
)

// Block is a fenced code block.
type Block struct {
	Line     int    // of the fence; the page's first line is 1
	Language string // empty if the fence names none
	Text     string // without the indentation of the fence
}

var fenceLine = regexp.MustCompile("^( *)```(\\S*)(.*)$")

// Blocks returns the code blocks of a page, in its order. It ignores a block that
// the page does not close.
func Blocks(page string) []Block {
	var all []Block
	var open *Block
	indent := ""
	for n, line := range strings.Split(page, "\n") {
		m := fenceLine.FindStringSubmatch(line)
		switch {
		case m == nil && open != nil:
			open.Text += strings.TrimPrefix(line, indent) + "\n"
		case m != nil && open == nil:
			indent, open = m[1], &Block{Line: n + 1, Language: m[2]}
		case m != nil:
			all = append(all, *open)
			open = nil
		}
	}
	return all
}
