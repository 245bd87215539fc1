package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// variable is a segment of a template: {name} or {name...}.
var variable = regexp.MustCompile(`^\{([A-Za-z_][A-Za-z0-9_]*)(\.\.\.)?\}$`)

// checkSyntax returns an error for a pattern in the language of another system. Such
// a pattern would be compared character by character and never match, so that a later
// and laxer route would decide. A percent escape always stands for the character
// itself, so every path can be written. variables tells whether {name} is a variable.
func checkSyntax(text string, variables bool) error {
	switch {
	case strings.Contains(text, "://"):
		return errors.New("must be a path; a host belongs to hosts")
	case strings.HasPrefix(text, "~") || strings.HasPrefix(text, "^") || strings.HasPrefix(text, "="):
		return errors.New("must begin with a slash; a regular expression or a modifier has no meaning here, use prefix or template")
	case !strings.HasPrefix(text, "/"):
		return errors.New("must begin with a slash, as in /v1/users")
	}
	segments := strings.Split(text[1:], "/")
	for i, s := range segments {
		before, last := "/"+strings.Join(segments[:i], "/"), i == len(segments)-1
		if strings.ContainsAny(s, "{}") {
			if err := checkBraces(s, text, variables); err != nil {
				return err
			}
			continue
		}
		var err error
		switch {
		case strings.Contains(s, "*"):
			err = wildcard(s, before, last)
		case strings.HasPrefix(s, ":") && len(s) > 1:
			err = fmt.Errorf("a variable is written {%s} in a template; a segment that really begins with : is %%3A…", name(s))
		case strings.ContainsAny(s, "<>"):
			err = fmt.Errorf("a variable is written {%s} in a template; < is %%3C and > is %%3E", name(s))
		case s == "+":
			err = errors.New("a variable for one segment is written {id} in a template; a literal + as a whole segment is %2B")
		case strings.ContainsAny(s, `^|[]()\`) || strings.Contains(s, ".+") || last && strings.HasSuffix(s, "$"):
			err = errors.New("a regular expression has no meaning here; write exact, prefix or template, " +
				"or percent-encode what the path really contains: ( is %28, ) is %29, [ is %5B, ] is %5D, | is %7C, ^ is %5E, + is %2B, $ is %24")
		case strings.ContainsAny(s, "?#"):
			err = errors.New("a query (?) or fragment (#) is no part of the path, and a regular expression's ? has no meaning here; for an optional part, write two entries")
		}
		if err != nil {
			return fmt.Errorf("segment %q: %w", s, err)
		}
	}
	return nil
}

// wildcard returns the error for a segment with an asterisk.
func wildcard(s, before string, last bool) error {
	const literal = "; a literal * is %2A"
	stem := strings.TrimRight(s, "*")
	switch {
	case !last && stem == "":
		return errors.New("* has no meaning here: one segment is written {id} in a template, and any number of segments can match only at the end, as {rest...}" + literal)
	case last && stem == "":
		return fmt.Errorf("* has no meaning here: everything below is prefix: %s, and one segment is {id} in a template%s", before, literal)
	case last && !strings.Contains(stem, "*"):
		return fmt.Errorf("* has no meaning here: the path and everything below is prefix: %s/%s, and no pattern matches a part of a segment%s", strings.TrimSuffix(before, "/"), stem, literal)
	}
	return errors.New("* has no meaning here, and no pattern matches a part of a segment: write prefix, or {id} for a whole segment in a template" + literal)
}

// checkBraces checks a segment with braces.
func checkBraces(s, text string, variables bool) error {
	inner := strings.Trim(s, "{}$")
	switch {
	case variable.MatchString(s) && variables:
		return nil
	case variable.MatchString(s):
		return fmt.Errorf("segment %q: a variable has a meaning only in template: %s; a literal { is %%7B and } is %%7D", s, text)
	case strings.ContainsAny(inner, ":="):
		return fmt.Errorf("segment %q: a variable has no expression of its own: write {%s} in a template, and test its value with allow", s, name(s))
	case strings.ContainsAny(inner, "*+"):
		return fmt.Errorf("segment %q: any number of segments is {%s...}, as the last segment of a template", s, name(s))
	case strings.HasSuffix(inner, "?"):
		return fmt.Errorf("segment %q: a variable cannot be optional; write two entries, one without it", s)
	}
	return fmt.Errorf("segment %q: a variable must be a whole segment of a template, such as {id} or, as the last one, {rest...}; a literal { is %%7B and } is %%7D", s)
}

var word = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*`)

// name returns a variable's name for a segment in another system's language. Some
// write a type before it, as in <int:id>.
func name(s string) string {
	if before, after, typed := strings.Cut(strings.Trim(s, "<>"), ":"); typed && strings.HasPrefix(s, "<") && before != "" {
		s = after
	}
	if w := word.FindString(s); w != "" {
		return w
	}
	return "id"
}
