package filter

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// UntestedVariable is the environment variable that, as "allow", lets the module load
// into an Envoy that it was not tested with.
const UntestedVariable = "JWT_BOUNCER_UNTESTED_ENVOY"

// ABI is a state of Envoy's ABI for dynamic modules that the tests have run with.
type ABI struct {
	Envoy       string // the versions of Envoy that have it
	Version     string // as Envoy calls it
	Fingerprint string // see Fingerprint
}

// TestedABIs returns the states of the ABI that this module was tested with.
func TestedABIs() []ABI { return slices.Clone(tested) }

// CheckABI returns the version of the ABI to tell the Envoy whose executable is given.
//
// Envoy only warns about a version that is not its own, and tells the module nothing
// about itself. What it exports does: each minor version has added callbacks. So an
// executable with other callbacks than those of TestedABIs is refused. If untested is
// set, CheckABI returns a version with the error.
func CheckABI(executable string, untested bool) (version string, err error) {
	sum, err := Fingerprint(executable)
	if err == nil {
		for _, abi := range tested {
			if abi.Fingerprint == sum {
				return abi.Version, nil
			}
		}
		err = fmt.Errorf("this Envoy (ABI %s) is none that jwt-bouncer was tested with (%s)", sum, testedNames())
	}
	if untested {
		return tested[len(tested)-1].Version, fmt.Errorf("%w; loaded because %s=allow", err, UntestedVariable)
	}
	return "", fmt.Errorf("%w; set %s=allow to load it all the same", err, UntestedVariable)
}

func testedNames() string {
	var names []string
	for _, abi := range tested {
		names = append(names, abi.Envoy)
	}
	return strings.Join(names, ", ")
}

// Fingerprint is a hash over the names of the callbacks for dynamic modules that an
// executable exports. It returns an error if there are none.
func Fingerprint(executable string) (string, error) {
	f, err := elf.Open(executable)
	if err != nil {
		return "", err
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return "", fmt.Errorf("%s: %w", executable, err)
	}
	var names []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF && strings.HasPrefix(s.Name, "envoy_dynamic_module_callback_") {
			names = append(names, s.Name)
		}
	}
	if names == nil {
		return "", fmt.Errorf("%s exports no callbacks for dynamic modules", executable)
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(names, "\n")))
	return hex.EncodeToString(sum[:8]), nil
}

// tested is in order of age. test/e2e checks every row with the Envoy that it names.
var tested = []ABI{
	{"1.38", "v0.1.0", "c87688dedebf57b1"},
	{"1.39", "v0.1.0", "c8f07024389780ef"},
	{"1.40", "v0.2.0", "58cd3d2407c6f746"},
}
