package httpapi

import "slices"

// Names for the external tests of this package. They are external because
// httpapitest imports the package.
const (
	MaxBatch      = maxBatch
	MaxSecretFile = maxSecretFile

	TypeOutcomeUnknown = typePrefix + "outcome-unknown"
	TypeUnavailable    = typePrefix + "unavailable"
	TypeInvalid        = typePrefix + "invalid-request"
)

type (
	Receipt    = receipt
	ListPage   = listPage
	Readiness  = readiness
	PartResult = partResult
)

// ProblemTypes returns the names of all problem types, sorted.
func ProblemTypes() []string {
	var names []string
	for _, t := range problemTypes {
		names = append(names, t.name)
	}
	slices.Sort(names)
	return names
}

// Endpoints returns all endpoints.
func (a *API) Endpoints() []Endpoint {
	var all []Endpoint
	for _, methods := range a.endpoints {
		for _, e := range methods {
			all = append(all, e)
		}
	}
	return all
}
