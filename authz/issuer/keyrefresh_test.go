package issuer_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
)

// The first retry is soon; the intervals then grow up to a maximum.
func TestRefresherBacksOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := authztest.NewIssuer(authztest.Offline(), authztest.Named(bubbleIssuer))
		iss.FailJWKS(&authztest.Fault{Status: http.StatusInternalServerError})
		v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}}},
			issuer.VerifierOptions{Clock: authztest.BubbleClock{Start: time.Now()}, Transport: iss.Transport()})
		require.NoError(t, err)
		defer v.Close()
		v.Start(t.Context())
		time.Sleep(2 * time.Second)
		early := iss.Fetches()
		require.GreaterOrEqual(t, early, int64(2))
		time.Sleep(time.Hour)
		late := iss.Fetches() - early
		require.LessOrEqual(t, late, int64(160))
		require.GreaterOrEqual(t, late, int64(90))
		iss.FailJWKS(nil)
		time.Sleep(time.Minute)
		require.NoError(t, v.Ready())
		recovered := iss.Fetches()
		time.Sleep(time.Hour)
		require.InDelta(t, 12, iss.Fetches()-recovered, 3)
		require.LessOrEqual(t, iss.DiscoveryFetches(), late+early+4, "the discovery document is cached while the key set can be fetched")
	})
}

func TestDiscoveryOfAnotherIssuerIsRefused(t *testing.T) {
	t.Parallel()
	documents := map[string]string{
		"other issuer":   `{"issuer":"https://evil.test","jwks_uri":"https://issuer.test/jwks.json"}`,
		"slash added":    `{"issuer":"https://issuer.test/","jwks_uri":"https://issuer.test/jwks.json"}`,
		"no issuer":      `{"jwks_uri":"https://issuer.test/jwks.json"}`,
		"issuer twice":   `{"issuer":"https://evil.test","issuer":"https://issuer.test","jwks_uri":"https://issuer.test/jwks.json"}`,
		"no jwks_uri":    `{"issuer":"https://issuer.test"}`,
		"jwks_uri http":  `{"issuer":"https://issuer.test","jwks_uri":"http://issuer.test/jwks.json"}`,
		"jwks_uri file":  `{"issuer":"https://issuer.test","jwks_uri":"file:///jwks.json"}`,
		"jwks_uri login": `{"issuer":"https://issuer.test","jwks_uri":"https://a:b@test/jwks.json"}`,
		"garbage":        `no`,
	}
	for name, body := range documents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			iss := authztest.NewIssuer(authztest.Offline(), authztest.Named(bubbleIssuer))
			iss.FailDiscovery(&authztest.Fault{Body: body})
			v, err := issuer.NewVerifier([]issuer.Config{{Issuer: iss.Name, Audiences: []string{"api"}}},
				issuer.VerifierOptions{Transport: iss.Transport()})
			require.NoError(t, err)
			defer v.Close()
			require.Error(t, v.Refresh(t.Context()))
			require.Zero(t, iss.Fetches())
		})
	}
}

// When the key set is not at its URL, the discovery document is fetched again.
func TestDiscoveryFollowsAMove(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, iss *authztest.Issuer, v *issuer.Verifier) {
		iss.FailDiscovery(&authztest.Fault{Body: `{"issuer":"https://issuer.test","jwks_uri":"https://issuer.test/gone.json"}`})
		time.Sleep(2 * time.Hour) // the document is cached for one hour
		require.NotEmpty(t, v.Status()[0].Err)
		iss.FailDiscovery(nil)
		time.Sleep(time.Minute)
		require.Empty(t, v.Status()[0].Err)
	}, func(c *issuer.Config) { c.JWKS = "" })
}
