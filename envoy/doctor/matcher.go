package doctor

import (
	"regexp"
	"strings"
)

// matchesAny reports whether a ListStringMatcher matches the text. A pattern that
// cannot be read matches nothing.
func matchesAny(list node, text string) bool {
	for _, m := range list.get("patterns").list() {
		if matchesString(m, text) {
			return true
		}
	}
	return false
}

// matchesString evaluates a StringMatcher.
func matchesString(m node, text string) bool {
	if m.get("safe_regex").exists() {
		return matchesRegex(m.get("safe_regex"), text)
	}
	fold := func(s string) string {
		if m.get("ignore_case").on() {
			return strings.ToLower(s)
		}
		return s
	}
	for field, match := range map[string]func(s, pattern string) bool{
		"exact": func(s, pattern string) bool { return s == pattern }, "prefix": strings.HasPrefix, "suffix": strings.HasSuffix, "contains": strings.Contains,
	} {
		if pattern := m.get(field); pattern.exists() {
			return match(fold(text), fold(pattern.str()))
		}
	}
	return false
}

// matchesRegex evaluates a RegexMatcher, which must match the whole text.
func matchesRegex(m node, text string) bool {
	re, err := regexp.Compile("^(?:" + m.get("regex").str() + ")$") // RE2, as in Envoy
	return err == nil && re.MatchString(text)
}
