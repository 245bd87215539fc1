package envoy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// identity is what the upstream is told about the caller: the headers that
// only this service may set.
type identity struct {
	headers  []identityHeader // sorted by name
	forward  bool             // Authorization passes
	metadata []string         // claims for dynamic metadata
	allMeta  bool
	maxBytes int
}

type identityHeader struct {
	name   string // lower case
	folded string // with "_" read as "-"
	value  claimTemplate
}

type stanzaFault struct{ path, message string }

// newIdentity compiles the stanza, or says everything that is wrong with it.
func newIdentity(c HeadersConfig) (*identity, []stanzaFault) {
	var (
		faults []stanzaFault
		id     = &identity{forward: c.ForwardAuthorization, maxBytes: c.MaxBytes}
		seen   = map[string]string{}
	)
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		path := "claims." + name
		if why := headerNameFault(name); why != "" {
			faults = append(faults, stanzaFault{path, fmt.Sprintf("%q %s", name, why)})
			continue
		}
		lower := strings.ToLower(name)
		folded := fold(lower)
		if other, ok := seen[folded]; ok {
			faults = append(faults, stanzaFault{path, fmt.Sprintf("%q and %q are one header to upstreams that read \"_\" as \"-\" or ignore case", other, name)})
			continue
		}
		seen[folded] = name
		value, err := parseClaimTemplate(c.Claims[name])
		if err != nil {
			faults = append(faults, stanzaFault{path, err.Error()})
			continue
		}
		id.headers = append(id.headers, identityHeader{name: lower, folded: folded, value: value})
	}
	for _, claim := range c.Metadata {
		if claim == "*" {
			id.allMeta = true
		}
		id.metadata = append(id.metadata, claim)
	}
	slices.Sort(id.metadata)
	id.metadata = slices.Compact(id.metadata)
	return id, faults
}

// fold maps names that some upstreams cannot tell apart to one: CGI and its
// heirs turn both "x-jwt-sub" and "x_jwt_sub" into HTTP_X_JWT_SUB.
func fold(name string) string { return strings.ReplaceAll(name, "_", "-") }

// lookalikes appends the request's headers that an upstream could take for an
// identity header although Envoy does not: they differ in "_" and "-". The
// spelling without any "_" is not among them.
func (id *identity) lookalikes(names []string, req *authz.Request) []string {
	for i := range req.Headers {
		name := req.Headers[i].Name
		if strings.IndexByte(name, '_') < 0 {
			continue
		}
		folded := fold(name)
		for j := range id.headers {
			if h := &id.headers[j]; h.folded == folded && h.name != name && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
