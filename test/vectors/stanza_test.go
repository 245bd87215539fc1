package vectors

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// stanza is one vector.
type stanza struct {
	file   string
	line   int
	name   string
	expect string
	fields map[string]string // the other directives
}

// load reads every stanza of the files that match the pattern. It returns an
// error if there is none: a suite without vectors must not pass.
func load(pattern string, directives ...string) ([]stanza, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	var all []stanza
	names := map[string]bool{}
	for _, file := range files {
		list, err := parse(file, directives)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			if names[s.name] {
				return nil, fmt.Errorf("%s:%d: duplicate vector %q", s.file, s.line, s.name)
			}
			names[s.name] = true
		}
		all = append(all, list...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no vector found in %s", pattern)
	}
	return all, nil
}

// parse splits a file into stanzas: blank lines separate them, # begins a
// comment line, and a directive occurs once.
func parse(file string, directives []string) ([]stanza, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	allowed := map[string]bool{"name": true, "expect": true}
	for _, d := range directives {
		allowed[d] = true
	}
	var all []stanza
	open := false
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"):
			continue
		case line == "":
			open = false
			continue
		case !open:
			all = append(all, stanza{file: file, line: n, fields: map[string]string{}})
			open = true
		}
		s := &all[len(all)-1]
		directive, value, ok := strings.Cut(line, ": ")
		if !ok {
			directive, value = strings.TrimSuffix(line, ":"), ""
		}
		if _, twice := s.fields[directive]; twice || !allowed[directive] {
			return nil, fmt.Errorf("%s:%d: unknown or duplicate directive %q", file, n, directive)
		}
		s.fields[directive] = value
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	for i := range all {
		s := &all[i]
		s.name, s.expect = s.fields["name"], s.fields["expect"]
		if s.name == "" || s.expect == "" {
			return nil, fmt.Errorf("%s:%d: name or expect is missing", s.file, s.line)
		}
	}
	return all, nil
}

var macros = regexp.MustCompile(`@repeat\(([^,]*),(\d+)\)|@byte\(([0-9a-f]{2})\)`)

// expand replaces @repeat(text,n), in whose text @comma means a comma, and
// @byte(hex).
func expand(s string) string {
	return macros.ReplaceAllStringFunc(s, func(m string) string {
		g := macros.FindStringSubmatch(m)
		if g[3] != "" {
			b, err := strconv.ParseUint(g[3], 16, 8)
			if err != nil {
				panic(err)
			}
			return string([]byte{byte(b)})
		}
		n, err := strconv.Atoi(g[2])
		if err != nil {
			panic(err)
		}
		return strings.Repeat(strings.ReplaceAll(g[1], "@comma", ","), n)
	})
}
