package sharedsignals

import (
	"maps"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// Config is the stanza "api.events".
type Config struct {
	Audiences     []string            `yaml:"audiences" doc:"The audiences (aud) under which the transmitter knows this receiver. Empty: the endpoint does not exist."`
	SpeaksFor     map[string][]string `yaml:"speaks_for" doc:"For a transmitter that is not the issuer of the tokens: its iss, and the issuers whose subjects and sessions it may report, or end by Global Token Revocation. The transmitter must be under issuers; the issuers must be there or under introspection. Empty: every transmitter reports its own subjects only."`
	SubjectClaims map[string]string   `yaml:"subject_claims" doc:"Which claim of access tokens holds what a subject identifier names: by its format (account, email, phone_number, did, uri, iss_sub, opaque) or by its member of a complex subject (device, application, group, org_unit, tenant). The claim is one of revocation.claims, or sub. It must be in every token, since a token without it is not revoked. Empty: iss_sub and opaque name the sub, application the client, and the others are refused."`
	AlsoSubject   bool                `yaml:"also_subject" doc:"Revoke the user's tokens as well if session-revoked names session and user; for issuers whose access tokens carry no sid. Default false."`
	RevokeOn      Policy              `yaml:"revoke_on" doc:"What CAEP events that report a level do."`
}

// Policy is the stanza "api.events.revoke_on".
type Policy struct {
	AssuranceLevel   string `yaml:"assurance_level" doc:"When assurance-level-change revokes: decrease (unless change_direction says increase), change, or never; empty means decrease."`
	DeviceCompliance string `yaml:"device_compliance" doc:"When device-compliance-change revokes: not_compliant (unless current_status says compliant), or never; empty means not_compliant."`
	RiskLevel        string `yaml:"risk_level" doc:"When risk-level-change revokes: high (unless current_level says LOW or MEDIUM), medium (unless it says LOW), or never; empty means high."`
}

const (
	never    = "never"
	onChange = "change"
	onMedium = "medium"
)

// mappable are the keys of Config.SubjectClaims.
var mappable = []string{"account", "email", "phone_number", "did", "uri", "iss_sub", "opaque", "device", "application", "group", "org_unit", "tenant"}

// Validate reports the invalid values of the stanza itself.
func (c Config) Validate(report authz.Report) {
	for i, s := range c.Audiences {
		if s == "" {
			report(authz.ItemPath("audiences", i), "must not be empty")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.SubjectClaims)) {
		if !slices.Contains(mappable, name) {
			report("subject_claims", "%q is neither a format nor a member that can be mapped; use %s", name, strings.Join(mappable, ", "))
		}
	}
	for _, one := range []struct {
		name, value string
		allowed     []string
	}{
		{"assurance_level", c.RevokeOn.AssuranceLevel, []string{"decrease", onChange, never}},
		{"device_compliance", c.RevokeOn.DeviceCompliance, []string{"not_compliant", never}},
		{"risk_level", c.RevokeOn.RiskLevel, []string{"high", onMedium, never}},
	} {
		if one.value != "" && !slices.Contains(one.allowed, one.value) {
			report("revoke_on."+one.name, "%q is not one of %s", one.value, strings.Join(one.allowed, ", "))
		}
	}
}

// ValidateIssuers checks what the stanza names against the issuers. Its paths are
// relative to the stanza.
func (c Config) ValidateIssuers(issuers authz.Issuers, report authz.Report) {
	all := issuers.All()
	for _, transmitter := range slices.Sorted(maps.Keys(c.SpeaksFor)) {
		if !slices.Contains(issuers.Verified, transmitter) {
			report("speaks_for", "%q is not under issuers; its keys are needed to verify its messages", transmitter)
		}
		for _, iss := range c.SpeaksFor[transmitter] {
			if !slices.Contains(all, iss) {
				report("speaks_for", "%q is neither under issuers nor the issuer of an introspection", iss)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.SubjectClaims)) {
		if claim := c.SubjectClaims[name]; claim != "sub" && !slices.Contains(issuers.Claims, claim) {
			report("subject_claims", "%q is neither sub nor one of revocation.claims, by which tokens can be revoked", claim)
		}
	}
}

// Subject returns what speaker, the iss of a verified message, may end tokens by.
func (c Config) Subject(speaker string) Subject {
	issuers := c.SpeaksFor[speaker]
	if len(issuers) == 0 {
		issuers = []string{speaker}
	}
	return Subject{Issuers: issuers, Speaker: speaker, Claims: c.SubjectClaims}
}
