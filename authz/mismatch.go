package authz

import "strings"

// Mismatch says that none of a claim's values is accepted. It shows both sides, and
// says so if they differ only in what people overlook. accepted is what the
// configuration calls them, such as "configured". For logs and explanations: it
// repeats the token and the configuration, which callers are not told.
func Mismatch(claim string, got []string, accepted string, want []string) string {
	text := claim + " is " + QuoteList(got) + "; " + accepted + ": " + QuoteList(want)
	for _, g := range got {
		for _, w := range want {
			if only := difference(g, w); only != "" {
				return text + "; " + QuoteShort(g) + " and " + QuoteShort(w) + " differ only in " + only
			}
		}
	}
	return text
}

// difference names the only thing in which two texts differ, if it is one that people
// overlook. It allocates nothing, because anyone can send tokens of unknown issuers.
func difference(a, b string) string {
	noScheme := func(s string) string { return strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://") }
	switch {
	case strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/"):
		return "the trailing slash"
	case noScheme(a) == noScheme(b):
		return "http and https"
	case strings.EqualFold(a, b):
		return "upper and lower case"
	case strings.TrimSpace(a) == strings.TrimSpace(b):
		return "white space"
	}
	return ""
}

// QuoteList quotes the first values of a list for a message.
func QuoteList(list []string) string {
	const most = 10
	if len(list) == 0 {
		return "empty"
	}
	quoted := make([]string, 0, most+1)
	for _, s := range list[:min(len(list), most)] {
		quoted = append(quoted, QuoteShort(s))
	}
	if len(list) > most {
		quoted = append(quoted, "…")
	}
	return strings.Join(quoted, ", ")
}
