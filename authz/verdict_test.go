package authz_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// A cache of verdicts is keyed by Hash, so two questions that differ in anything
// have two hashes.
func TestQueryHashIsTheWholeQuestion(t *testing.T) {
	t.Parallel()
	base := authz.Query{
		Keys: []authz.Key{{1}, {2}}, TokenKey: authz.Key{2}, IssuedAt: 1, Expires: 2, Issuer: "iss", ID: "jti", Status: &authz.StatusRef{URI: "uri", Index: 1},
	}
	changes := map[string][]func(*authz.Query){
		"Keys": {
			func(q *authz.Query) { q.Keys = nil }, func(q *authz.Query) { q.Keys = q.Keys[:1] },
			func(q *authz.Query) { q.Keys = []authz.Key{{2}, {1}} }, func(q *authz.Query) { q.Keys = []authz.Key{{1}, {2}, {2}} },
		},
		"TokenKey": {func(q *authz.Query) { q.TokenKey = authz.Key{3} }},
		"IssuedAt": {func(q *authz.Query) { q.IssuedAt = 0 }, func(q *authz.Query) { q.IssuedAt = -1 }},
		"Expires":  {func(q *authz.Query) { q.Expires = 3 }},
		"Issuer":   {func(q *authz.Query) { q.Issuer, q.ID = "issj", "ti" }},
		"ID":       {func(q *authz.Query) { q.ID = "" }},
		"Status": {
			func(q *authz.Query) { q.Status = nil }, func(q *authz.Query) { q.Status = &authz.StatusRef{} },
			func(q *authz.Query) { q.Status = &authz.StatusRef{URI: "uri"} }, func(q *authz.Query) { q.Status = &authz.StatusRef{Index: 1} },
		},
	}
	seen := map[authz.Key]string{base.Hash(): "unchanged"}
	for i := range reflect.TypeFor[authz.Query]().NumField() {
		field := reflect.TypeFor[authz.Query]().Field(i).Name
		require.NotEmpty(t, changes[field], "%s is a part of the question", field)
		for _, change := range changes[field] {
			q := base
			change(&q)
			require.Empty(t, seen[q.Hash()], field)
			seen[q.Hash()] = field
		}
	}
	again := base
	again.Status = &authz.StatusRef{URI: "uri", Index: 1}
	require.Equal(t, base.Hash(), again.Hash(), "equal questions have one hash")
}
