package page

// Names for the external tests of this package. They are external because
// httpapitest imports the package.
const (
	ContentPolicy   = contentPolicy
	SessionCookie   = sessionCookie
	SessionLifetime = sessionLifetime
)
