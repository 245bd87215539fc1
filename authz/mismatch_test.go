package authz_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
)

func TestMismatch(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]struct{ got, want []string }{
		`aud is "account"; configured: "api"`:    {[]string{"account"}, []string{"api"}},
		`aud is empty; configured: "api", "web"`: {nil, []string{"api", "web"}},
		`aud is "https://a/"; configured: "https://a"; "https://a/" and "https://a" differ only in the trailing slash`:   {[]string{"https://a/"}, []string{"https://a"}},
		`aud is "x", "http://a"; configured: "y", "https://a"; "http://a" and "https://a" differ only in http and https`: {[]string{"x", "http://a"}, []string{"y", "https://a"}},
		`aud is "API"; configured: "api"; "API" and "api" differ only in upper and lower case`:                           {[]string{"API"}, []string{"api"}},
		`aud is "api "; configured: "api"; "api " and "api" differ only in white space`:                                  {[]string{"api "}, []string{"api"}},
		`aud is "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", …; configured: empty`:                                  {strings.Split("0123456789ab", ""), nil},
	} {
		assert.Equal(t, want, authz.Mismatch("aud", c.got, "configured", c.want))
	}
}
