package httpapi

// Names for the external tests of this package. They are external because
// httpapitest imports the package.
const (
	MaxBatch      = maxBatch
	MaxSecretFile = maxSecretFile

	TypeOutcomeUnknown = typeOutcomeUnknown
	TypeUnavailable    = typeUnavailable
	TypeInvalid        = typeInvalid
)

type (
	Receipt    = receipt
	ListPage   = listPage
	Readiness  = readiness
	PartResult = partResult
)

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
