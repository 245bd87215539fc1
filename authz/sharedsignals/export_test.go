package sharedsignals

// Names for the external tests of this package. They are external because
// httpapitest imports the package.
const (
	CAEP = caep
	RISC = risc
	SSF  = ssf
)
