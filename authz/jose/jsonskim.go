package jose

// issuerClaim is the "iss" of claims that nobody has verified.
type IssuerClaim struct {
	Present bool
	Text    bool // it is a string
	Name    string
}

// skimIssuer finds the issuer in claims and builds nothing else of them: until
// a signature has been verified, whoever wrote the text decides how much there
// is to build. It refuses nothing that parseObject accepts, and knows all its
// bounds; what it leaves out are duplicates of other members and the range of
// numbers. The claims are to be parsed once the signature is good.
func SkimIssuer(text string) (IssuerClaim, error) {
	r := jsonReader{s: text, values: maxJSONValues}
	if err := r.begin(); err != nil {
		return IssuerClaim{}, err
	}
	c, err := r.issuer()
	if err == nil {
		err = r.end()
	}
	return c, err
}

func (r *jsonReader) issuer() (c IssuerClaim, err error) {
	if err := r.enter(); err != nil {
		return c, err
	}
	for first := true; ; first = false {
		if more, err := r.more('}', first); !more {
			return c, err
		}
		name, unescaped, err := r.name()
		switch {
		case err != nil:
			return c, err
		case name != "iss" && string(unescaped) != "iss":
			err = r.skip()
		case c.Present:
			return c, r.fault("duplicate member")
		case r.peek() == '"':
			c.Present, c.Text = true, true
			if err = r.count(); err == nil {
				c.Name, err = r.text()
			}
		default:
			c.Present = true
			err = r.skip()
		}
		if err != nil {
			return c, err
		}
	}
}

// name reads a member's name and the colon.
func (r *jsonReader) name() (plain string, unescaped []byte, err error) {
	if r.peek() != '"' {
		return "", nil, r.fault("member name expected")
	}
	if plain, unescaped, err = r.span(); err == nil {
		err = r.colon()
	}
	return plain, unescaped, err
}

// skip reads a value without building it.
func (r *jsonReader) skip() (err error) {
	if err := r.count(); err != nil {
		return err
	}
	switch c := r.peek(); {
	case c == '"':
		_, _, err = r.span()
	case c == '{', c == '[':
		err = r.skipItems(c)
	case c == '-', c >= '0' && c <= '9':
		_, _, err = r.numeral()
	default:
		_, err = r.word()
	}
	return err
}

func (r *jsonReader) skipItems(open byte) error {
	if err := r.enter(); err != nil {
		return err
	}
	bracket := open + 2 // '{' to '}' and '[' to ']', as ASCII has them
	for first := true; ; first = false {
		if more, err := r.more(bracket, first); !more {
			return err
		}
		if open == '{' {
			if _, _, err := r.name(); err != nil {
				return err
			}
		}
		if err := r.skip(); err != nil {
			return err
		}
	}
}
