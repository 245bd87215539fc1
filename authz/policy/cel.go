package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"jwtbouncer/authz"
)

// expression is one compiled entry of "allow" of a route. It is safe for
// concurrent use.
type expression struct {
	label   string // such as "allow[0]"
	text    string
	program cel.Program
	// readsAudience tells that the expression may read aud through the variable token.
	readsAudience bool
}

// audience finds what may read aud otherwise than as token.aud.
var audience = regexp.MustCompile(`aud|token\s*\[`)

const (
	// maxExpression is the maximum length of an expression in characters.
	maxExpression = 4096
	// maxExpressionCost limits an evaluation in CEL's cost units, roughly one per
	// operation: a fraction of a millisecond. An expression that exceeds it denies.
	maxExpressionCost = 50_000
)

// celEnvironment declares the variables and functions of expressions. Each name
// with a dot is a variable of its own, so that it has a type, and is built only if
// the expression mentions it.
var celEnvironment = sync.OnceValues(func() (*cel.Env, error) {
	text := cel.MapType(cel.StringType, cel.StringType)
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	return cel.NewEnv(
		cel.CustomTypeAdapter(claimAdapter{Adapter: registry}),
		cel.Variable("token", cel.MapType(cel.StringType, cel.DynType)),
		// A type of its own, so that comparing it with a string is an error.
		cel.Variable("token.aud", cel.ListType(cel.StringType)),
		cel.Variable("now", cel.TimestampType),
		cel.Variable("request.method", cel.StringType),
		cel.Variable("request.scheme", cel.StringType),
		cel.Variable("request.protocol", cel.StringType),
		cel.Variable("request.host", cel.StringType),
		cel.Variable("request.server_name", cel.StringType),
		cel.Variable("request.path", cel.StringType),
		cel.Variable("request.query", cel.StringType),
		cel.Variable("request.headers", text),
		cel.Variable("request.extensions", text),
		cel.Variable("source.address", cel.StringType),
		cel.Variable("source.principal", cel.StringType),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(maxExpression),
		ext.Strings(), ext.Sets(), ext.Network(),
	)
})

// compileExpressions compiles each text. Errors contain line and column.
func compileExpressions(route string, texts []string, report authz.Report) []*expression {
	var out []*expression
	for i, text := range texts {
		label := fmt.Sprintf("allow[%d]", i)
		e, err := compileExpression(label, text)
		if err != nil {
			report(label, "route %s: %v", route, err)
			continue
		}
		out = append(out, e)
	}
	return out
}

func compileExpression(label, text string) (*expression, error) {
	env, err := celEnvironment()
	if err != nil {
		return nil, fmt.Errorf("CEL environment: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		var lines []string
		for _, e := range issues.Errors() {
			hint := ""
			if strings.Contains(e.Message, "list(string)") && strings.Contains(text, "token.aud") {
				hint = "; token.aud is always a list: write 'api' in token.aud"
			}
			lines = append(lines, fmt.Sprintf("line %d, column %d: %s%s", e.Location.Line(), e.Location.Column()+1, e.Message, hint))
		}
		return nil, errors.New(strings.Join(lines, "; "))
	}
	if ast.OutputType() != cel.BoolType {
		hint := ""
		if ast.OutputType() == cel.DynType {
			hint = "; a claim can have any type, so compare it, as in token.email_verified == true"
		}
		return nil, fmt.Errorf("line 1, column 1: the expression must yield a bool, not %s%s", cel.FormatCELType(ast.OutputType()), hint)
	}
	program, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxExpressionCost), cel.InterruptCheckFrequency(64))
	if err != nil {
		return nil, err
	}
	return &expression{label: label, text: text, program: program, readsAudience: audience.MatchString(text)}, nil
}

// admit evaluates e. Any result but true denies, and so does an error.
// It is evaluated for every request, and no result is kept: what depends on now,
// the request or the token's claims is never older than the check.
func (e *expression) admit(ctx context.Context, req *authz.Request, t *authz.Token, now time.Time) *authz.Failure {
	out, _, err := e.program.ContextEval(ctx, &celVariables{expression: e, req: req, token: t, now: now})
	switch {
	case ctx.Err() != nil:
		return &authz.Failure{Reason: authz.ReasonOverloaded, Detail: e.label + " was interrupted: " + ctx.Err().Error()}
	case err != nil:
		return &authz.Failure{Reason: authz.ReasonPolicyDenied, Detail: e.label + " failed: " + safeMessage(err)}
	case out != types.True:
		return &authz.Failure{Reason: authz.ReasonPolicyDenied, Detail: e.label + " is false"}
	}
	return nil
}

// unreadable is the reason why a variable has no value, a constant.
type unreadable string

func (u unreadable) Error() string { return string(u) }

// evaluationErrors are prefixes of CEL's errors that are safe to log. The rest of
// these errors, and every other error, may quote a claim or a credential.
var evaluationErrors = []string{
	"no such key", "no such overload", "index out of range", "index out of bounds", "division by zero", "modulus by zero",
	"integer overflow", "unsigned integer overflow", "duration overflow", "timestamp overflow", "type conversion error", "error parsing regexp",
	"operation cancelled: actual cost limit exceeded",
}

// safeMessage returns a message for err that contains no evaluated value.
func safeMessage(err error) string {
	var why unreadable
	if errors.As(err, &why) {
		return string(why)
	}
	for _, prefix := range evaluationErrors {
		if strings.HasPrefix(err.Error(), prefix) {
			return prefix
		}
	}
	return "invalid value"
}

// celVariables returns the values of a request by name and builds only those that
// an expression mentions.
type celVariables struct {
	expression *expression
	req        *authz.Request
	token      *authz.Token
	now        time.Time
}

var _ cel.Activation = (*celVariables)(nil)

func (v *celVariables) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation. Host and path are as routes compare them.
// If they are unclear, they are an error, so that no expression decides about one
// reading only.
func (v *celVariables) ResolveName(name string) (any, bool) {
	switch name {
	case "token":
		if aud, single := v.token.Claims["aud"].(string); single && v.expression.readsAudience {
			claims := maps.Clone(v.token.Claims)
			claims["aud"] = []any{aud}
			return claims, true
		}
		return v.token.Claims, true
	case "token.aud":
		switch aud := v.token.Claims["aud"].(type) {
		case string:
			return []any{aud}, true
		case nil:
			return types.WrapErr(unreadable("no such key")), true
		default:
			return aud, true
		}
	case "now":
		return v.now, true
	case "request.method":
		return v.req.Method, true
	case "request.scheme":
		return v.req.Scheme, true
	case "request.protocol":
		return v.req.Protocol, true
	case "request.host":
		host, ok := readHost(v.req.Host)
		if !ok {
			return types.WrapErr(unreadable("host is missing or malformed")), true
		}
		return host, true
	case "request.server_name":
		if v.req.ServerName == "" {
			return types.WrapErr(unreadable("the server name of the TLS connection is not known")), true
		}
		return v.req.ServerName, true
	case "request.path":
		path := readPath(v.req.Path)
		if path.unclear != "" {
			return types.WrapErr(unreadable(path.unclear)), true
		}
		return path.text, true
	case "request.query":
		_, query, _ := strings.Cut(v.req.Path, "?")
		return query, true
	case "request.headers":
		return textMap(v.req.Headers), true
	case "request.extensions":
		return textMap(v.req.ContextExtensions), true
	case "source.address":
		if v.req.Source.Address == "" {
			return types.WrapErr(unreadable("the peer's address is not known")), true
		}
		return v.req.Source.Address, true
	case "source.principal":
		return v.req.Source.Principal, true
	}
	return nil, false
}

// textMap returns headers by name. It joins the values of repeated names with a
// comma (RFC 9110, section 5.3).
func textMap(headers []authz.Header) map[string]string {
	m := make(map[string]string, len(headers))
	for _, h := range headers {
		if old, dup := m[h.Name]; dup {
			h.Value = old + "," + h.Value
		}
		m[h.Name] = h.Value
	}
	return m
}
