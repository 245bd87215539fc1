package receiver

// text returns a claim that is text; "" for any other.
func text(claims map[string]any, name string) string {
	s, _ := claims[name].(string)
	return s
}
