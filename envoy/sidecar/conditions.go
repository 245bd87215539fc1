package sidecar

import (
	"errors"
	"fmt"
	"time"

	"jwtbouncer/authz/httpapi"
)

// conditions returns the state of each part. A sidecar is ready when it has the
// keys of an issuer and has loaded all revocations once or, in lookup mode, has
// reached the store once. An outage of the store does not make it unready but
// degraded: it goes on denying with reasons, and taking all sidecars out of service
// at once would help nobody. A replaced SQLite file is different: only a restart
// helps.
func (c *core) conditions() []httpapi.Condition {
	all := []httpapi.Condition{c.keysCondition(), c.revocationsCondition(), c.storeCondition()}
	if c.redis != nil {
		all = append(all, c.redisCondition())
	}
	for _, s := range c.rules.Verifier.Status() {
		k := httpapi.Condition{Part: "issuer " + s.Issuer, State: httpapi.StateOK, Age: -1, Bound: s.MaxAge}
		if !s.Fetched.IsZero() {
			k.Age = time.Since(s.Fetched)
		}
		switch {
		case s.Keys == 0:
			degrade(&k, "denying this issuer's tokens: it has no usable keys", errors.New(s.Reason()))
		case s.Err != "":
			degrade(&k, fmt.Sprintf("the last fetch of the keys failed: those of %s ago are used until they are %s old", rounded(k.Age), s.MaxAge), errors.New(s.Err))
		}
		all = append(all, k)
	}
	return append(all, c.streamConditions()...)
}

func (c *core) keysCondition() httpapi.Condition {
	k := httpapi.Condition{Part: "keys", State: httpapi.StateOK, Age: -1}
	for _, s := range c.rules.Verifier.Status() {
		if age := time.Since(s.Fetched); s.Keys > 0 && (k.Age < 0 || age < k.Age) {
			k.Age = age
		}
	}
	if err := c.rules.Verifier.Ready(); err != nil {
		degrade(&k, "denying tokens (503): no issuer has usable keys", err)
		k.State = httpapi.StateNotReady
	}
	return k
}

// revocationsCondition is about what decisions need: the loaded replica, or, in
// lookup mode, the store having been reached.
func (c *core) revocationsCondition() httpapi.Condition {
	r := httpapi.Condition{Part: "revocations", State: httpapi.StateOK}
	var lookups error // why the store does not prove anything either
	if r.Age, lookups = c.storeContact(); c.follower != nil {
		r.Bound = c.follower.MaxStaleness()
	}
	err := c.revocationsReady()
	switch {
	case err != nil:
		degrade(&r, "denying tokens (503): the revocations are not known", err)
		r.State = httpapi.StateNotReady
	case c.follower == nil && lookups != nil:
		degrade(&r, c.undecided()+" of which Redis has no fresh verdict: the store "+silence(r.Age), nil)
	case c.follower != nil && r.Age > r.Bound && lookups != nil:
		degrade(&r, fmt.Sprintf("%s: revocation state is %s old, bound %s", c.undecided(), rounded(r.Age), r.Bound), nil)
	case c.follower != nil && r.Age > r.Bound:
		degrade(&r, fmt.Sprintf("asking the store about each token: revocation state is %s old, bound %s", rounded(r.Age), r.Bound), nil)
	}
	return r
}

// undecided says what happens to tokens of unknown revocation.
func (c *core) undecided() string {
	if c.allowUnknown {
		return "allowing unproven tokens (on_revocation_unknown: allow)"
	}
	return "denying tokens (503)"
}

func (c *core) storeCondition() httpapi.Condition {
	s := httpapi.Condition{Part: "store", State: httpapi.StateOK}
	var err error
	if s.Age, err = c.storeContact(); err != nil {
		degrade(&s, silence(s.Age)+": nothing can be revoked", err)
	}
	return s
}

// storeContact returns the time since the store last proved what it says, and why
// it does not now; nil: it does.
func (c *core) storeContact() (age time.Duration, err error) {
	if c.follower != nil {
		return c.follower.Staleness(), errors.Join(c.follower.Err(), c.store.Ready())
	}
	age, err = c.contact.Last()
	return age, errors.Join(err, c.store.Ready())
}

func (c *core) redisCondition() httpapi.Condition {
	r := httpapi.Condition{Part: "redis", State: httpapi.StateOK}
	var err error
	if r.Age, err = c.redis.Contact(); err != nil {
		effect := ": revocations reach this sidecar at its next sync with the store"
		if c.follower == nil {
			effect = ": each check asks the store"
		}
		degrade(&r, silence(r.Age)+effect, err)
	}
	return r
}

// degrade makes c degraded. detail may be nil.
func degrade(c *httpapi.Condition, reason string, detail error) {
	c.State, c.Reason = httpapi.StateDegraded, reason
	if detail != nil {
		c.Detail = detail.Error()
	}
}

// silence says for how long a dependency has not answered.
func silence(age time.Duration) string {
	if age < 0 {
		return "has not answered yet"
	}
	return "has not answered for " + rounded(age).String()
}

// rounded is for people: tenths of a second below ten seconds.
func rounded(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

func (c *core) revocationsReady() error {
	if err := c.store.Ready(); err != nil {
		return err
	}
	if c.follower == nil {
		return c.firstError()
	}
	if !c.follower.Ready() {
		return errors.Join(errors.New("the revocations have not been loaded yet"), c.firstError())
	}
	return nil
}

// ready returns nil, or why the sidecar is not ready.
func (c *core) ready() error {
	var errs []error
	for _, p := range []httpapi.Condition{c.keysCondition(), c.revocationsCondition()} {
		if p.State == httpapi.StateNotReady {
			errs = append(errs, fmt.Errorf("%s: %s: %s", p.Part, p.Reason, p.Detail))
		}
	}
	return errors.Join(errs...)
}
