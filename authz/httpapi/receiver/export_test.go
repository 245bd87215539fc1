package receiver

// Names for the external tests of this package. They are external because
// httpapitest imports the package.
const (
	LogoutEvent = logoutEvent
)
