package issuer

import (
	"strings"

	"jwtbouncer/authz"
)

// uses says what a token calls itself, by the words that issuers use (see useWord).
var uses = map[string]string{
	"access": accessToken, "accesstoken": accessToken, "at": accessToken, "bearer": accessToken, "dpop": accessToken,
	"id": idToken, "idtoken": idToken, "serializedid": "an identity cookie",
	"refresh": refreshToken, "refreshtoken": refreshToken, "offline": refreshToken, "offlinetoken": refreshToken,
	"logout": "a logout token", "logouttoken": "a logout token",
	"initialaccesstoken": clientRegistration, "registrationaccesstoken": clientRegistration,
	"tok_type:at": accessToken, "tok_type:it": idToken, "tok_type:rt": refreshToken,
}

const (
	accessToken        = "an access token"
	idToken            = "an ID token"
	refreshToken       = "a refresh token"
	clientRegistration = "a token for client registration"
)

var useSeparators = strings.NewReplacer("_", "", "-", "", " ", "")

// useWord reduces "Refresh", "refresh_token" and
// "urn:ietf:params:oauth:token-type:refresh_token" to one spelling.
func useWord(s string) string {
	s = strings.ToLower(s[strings.LastIndexByte(s, ':')+1:])
	return useSeparators.Replace(strings.TrimSuffix(s, "+jwt"))
}

// CheckUse refuses claims that say that their token is something other than an
// access token (RFC 8725, section 2.8), or that it is bound to a key that they do
// not name. The claims are those of a JWT or of an introspection response; typ is
// the JWT's header parameter, lower case. With acceptIDTokens, an ID token passes.
//
// No specification has a claim for the use of a token: Cognito and Hydra have
// token_use, Keycloak has typ, ForgeRock has tokenName, Oracle has tok_type, others
// have type or reuse token_type (RFC 6749, section 7.1). A token that says nothing
// about itself passes, as do words that name no other kind of token.
func CheckUse(typ string, claims map[string]any, acceptIDTokens bool) *authz.Failure {
	named := typ == "at+jwt" // RFC 9068, section 2.1
	for _, name := range []string{"token_use", "typ", "token_type", "type", "tokenName", "tok_type"} {
		v := claims[name]
		if v == nil {
			continue
		}
		s, _ := v.(string)
		word := useWord(s)
		if name == "tok_type" { // it abbreviates
			word = name + ":" + word
		}
		switch use := uses[word]; {
		case use == idToken && acceptIDTokens:
		case use == idToken:
			return notAnAccessToken(name, idToken+acceptHint)
		case use == "" && name == "token_use": // has no other purpose
			return notAnAccessToken(name, authz.QuoteShort(s))
		case use != "" && use != accessToken:
			return notAnAccessToken(name, use)
		case word == "dpop" && !hasThumbprint(claims):
			return &authz.Failure{Reason: authz.ReasonBindingMismatch, Detail: name + " is DPoP, but cnf.jkt is missing"}
		case use == accessToken && name != "token_type": // which a response has for any token
			named = true
		}
	}
	if _, event := claims["events"]; event { // RFC 8417, section 4
		return &authz.Failure{Reason: authz.ReasonUnsupportedToken, Detail: "a security event token is not a credential"}
	}
	if acceptIDTokens {
		return nil
	}
	for _, name := range []string{"nonce", "at_hash", "c_hash", "s_hash"} { // OpenID Connect Core 1.0, sections 2 and 3.3.2.11; FAPI
		// Keycloak before version 24 copied nonce into tokens with typ Bearer.
		if claims[name] != nil && (name != "nonce" || !named) {
			return notAnAccessToken(name, idToken+acceptHint)
		}
	}
	return nil
}

const acceptHint = "; accept_id_tokens accepts these"

func notAnAccessToken(claim, what string) *authz.Failure {
	return &authz.Failure{Reason: authz.ReasonUnsupportedToken, Detail: "not an access token: " + claim + " says that it is " + what}
}

func hasThumbprint(claims map[string]any) bool {
	cnf, _ := claims["cnf"].(map[string]any)
	jkt, _ := cnf["jkt"].(string)
	return jkt != ""
}
