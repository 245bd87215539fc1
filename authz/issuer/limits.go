package issuer

import (
	"cmp"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

// LimitsConfig is the stanza "limits": how much of what others send is read. The
// defaults are several times what real issuers send. The maxima keep the cost of
// one token in milliseconds, because anybody can send one.
type LimitsConfig struct {
	TokenBytes  int `yaml:"token_bytes" doc:"Length of a token in bytes, 1024 to 61440; 0: 16384. Tokens are longer when they carry groups or a certificate chain. Whoever sends forged ones makes the sidecar decode that much. Envoy refuses requests with more than 60 KiB of headers by default."`
	TokenValues int `yaml:"token_values" doc:"JSON values in a token's claims, nested ones included, 100 to 20000; 0: 2000. Each group or role is one. They take about 50 bytes of memory each, in the cache of verified tokens too."`
	SetKeys     int `yaml:"set_keys" doc:"Members of an issuer's key set that are read, 1 to 1024; 0: 256. Further ones are refused. A token without kid and x5t is compared with all of them."`
	SetBytes    int `yaml:"set_bytes" doc:"Length of a key set or discovery document in bytes, unpacked, 16384 to 16777216; 0: 1048576. A key with a certificate chain takes about 5000."`
}

func (c LimitsConfig) withDefaults() LimitsConfig {
	c.TokenBytes = cmp.Or(c.TokenBytes, jose.DefaultMaxTokenBytes)
	c.TokenValues = cmp.Or(c.TokenValues, jose.DefaultMaxValues)
	c.SetKeys = cmp.Or(c.SetKeys, jose.DefaultMaxSetKeys)
	c.SetBytes = cmp.Or(c.SetBytes, 1<<20)
	return c
}

// Validate reports every invalid value of the stanza.
func (c LimitsConfig) Validate(report authz.Report) {
	c = c.withDefaults()
	for _, l := range []struct {
		name           string
		n, least, most int
	}{
		{"token_bytes", c.TokenBytes, 1 << 10, authz.MaxTokenBytes}, {"token_values", c.TokenValues, 100, 20_000},
		{"set_keys", c.SetKeys, 1, 1024}, {"set_bytes", c.SetBytes, 16 << 10, 16 << 20},
	} {
		if l.n < l.least || l.n > l.most {
			report(l.name, "%d is out of range; %d to %d are allowed, 0 means the default", l.n, l.least, l.most)
		}
	}
}
