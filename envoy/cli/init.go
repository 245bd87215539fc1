package cli

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/envoy/starter"
)

type initCmd struct {
	Issuer   string   `required:"" placeholder:"URL" help:"The identity provider: exactly the iss of its tokens."`
	Audience []string `required:"" sep:"none" placeholder:"AUD" help:"What aud of your API's tokens holds; repeat the flag for several. With Amazon Cognito, the clients' ids."`
	For      string   `enum:"envoy,compose,istio,envoy-gateway" default:"envoy" help:"Write files for ${enum} (default: ${default})."`
	Dir      string   `placeholder:"DIR" default:"." help:"Directory to write to; made if it does not exist (default: the current one)."`

	CA     string   `name:"ca" placeholder:"FILE" help:"PEM file of the certificate authorities of the issuer's server; default: the system's."`
	Proxy  string   `placeholder:"URL" help:"HTTP proxy on the way to the issuer."`
	Client []string `sep:"none" placeholder:"ID" help:"Client whose logouts the provider may report (OIDC back-channel logout); repeat the flag for several."`
	Store  *string  `placeholder:"URL" help:"The revocation store; must not contain a password. Default: SQLite in --dir."`
	Image  string   `placeholder:"NAME:TAG" help:"jwt-bouncer's image, for everything but envoy."`

	Listen   *string `placeholder:"ADDR" help:"Where Envoy listens, for envoy and compose (default: 127.0.0.1:8080)."`
	Upstream *string `placeholder:"ADDR" help:"host:port of your service, for envoy and compose (default: port 8000 of this machine)."`
	GRPC     *string `placeholder:"ADDR" help:"listen.grpc, for envoy (default: 127.0.0.1:9191)."`
	HTTP     *string `placeholder:"ADDR" help:"listen.http, for envoy (default: 127.0.0.1:9192)."`
}

// Help is printed after the flags.
func (i *initCmd) Help() string {
	return `Asks the identity provider's discovery document, and writes a configuration for it with the files for the proxy. Existing files are never changed: if there is one, nothing is written.`
}

// initTimeout bounds each request to the issuer. There are at most three.
const initTimeout = 10 * time.Second

// Run implements the command.
func (i *initCmd) Run(ctx context.Context, p *Process) error {
	o, err := i.options()
	if err != nil {
		return usage(err)
	}
	o.Metadata, err = issuer.Discover(ctx, issuer.Config{Issuer: o.Issuer, Config: o.Reach, FetchTimeout: initTimeout}, nil)
	if err != nil {
		return i.explain(err)
	}
	plan, err := starter.Make(o)
	if err != nil {
		return usage(err)
	}
	var flags []sidecar.Flag
	if i.Store != nil {
		flags = append(flags, sidecar.Flag{Name: "--store", Key: "store", Value: *i.Store})
	}
	config := filepath.Join(i.Dir, plan.Files[0].Name)
	if _, err := sidecar.Parse(config, plan.Files[0].Text, flags...); err != nil {
		return usage(errors.New("nothing was written, because the configuration would not be valid:\n" + err.Error()))
	}
	if err := writeAll(o.Dir, i.Dir, plan.Files); err != nil {
		return err
	}
	fmt.Fprintf(p.Out, "%s is %s.\n", o.Issuer, plan.Provider)
	for _, note := range plan.Notes {
		fmt.Fprintf(p.Out, "  %s\n", note)
	}
	switch advertised := o.Metadata.Members["backchannel_logout_supported"] == true; {
	case advertised && len(i.Client) == 0:
		fmt.Fprintf(p.Out, "  It can tell of logouts; %s says how.\n", config)
	case !advertised && len(i.Client) > 0:
		fmt.Fprintln(p.Out, "  It does not say that it tells of logouts (backchannel_logout_supported); --client may be in vain.")
	}
	fmt.Fprintf(p.Out, "Wrote %d files to %s, with %s first.\n\nNext:\n", len(plan.Files), i.Dir, config)
	for _, line := range i.next(o) {
		fmt.Fprintf(p.Out, "  %s\n", line)
	}
	return nil
}

// options checks the flags.
func (i *initCmd) options() (o starter.Options, err error) {
	o = starter.Options{Issuer: i.Issuer, Audiences: i.Audience, Clients: i.Client, For: i.For, Image: i.Image, Reach: fetch.Config{Proxy: i.Proxy}}
	if err := i.checkIssuer(); err != nil {
		return o, err
	}
	for name, values := range map[string][]string{"--audience": i.Audience, "--client": i.Client} {
		for _, v := range values {
			if v == "" || !authz.ValidText(v) {
				return o, fmt.Errorf("%s is empty or not text", name)
			}
		}
	}
	alone := i.For == starter.Envoy
	local := alone || i.For == starter.Compose
	for _, f := range []struct {
		name  string
		given *string
		value *string
		usual string
		fits  bool
	}{
		{"--listen", i.Listen, &o.Listen, "127.0.0.1:8080", local},
		{"--upstream", i.Upstream, &o.Upstream, i.usualUpstream(), local},
		{"--grpc", i.GRPC, &o.GRPC, "127.0.0.1:9191", alone},
		{"--http", i.HTTP, &o.HTTP, "127.0.0.1:9192", alone},
		{"--store", i.Store, &o.Store, "", local},
	} {
		*f.value = f.usual
		switch {
		case f.given == nil:
		case !f.fits:
			return o, fmt.Errorf("%s has no effect with --for %s; change the files that are written", f.name, i.For)
		case *f.given == "":
			return o, fmt.Errorf("%s is empty", f.name)
		default:
			*f.value = *f.given
		}
	}
	if local {
		if err := checkAddress(o.Listen, false); err != nil {
			return o, fmt.Errorf("--listen: %w", err)
		}
		if err := checkAddress(o.Upstream, true); err != nil {
			return o, fmt.Errorf("--upstream: %w", err)
		}
		if err := checkAddress(o.GRPC, true); err != nil {
			return o, fmt.Errorf("--grpc: %w", err)
		}
	}
	if i.Image != "" && i.For == starter.Envoy {
		return o, errors.New("--image has no effect with --for envoy")
	}
	if len(i.Client) > 0 && i.For == starter.Compose {
		return o, errors.New("--client needs a revocation API that the provider reaches, which compose does not publish; write api.logout yourself: docs/api.md")
	}
	if i.CA != "" {
		if o.Reach.CAFile, err = filepath.Abs(i.CA); err != nil {
			return o, fmt.Errorf("--ca: %w", err)
		}
		if o.CA, err = readCertificates(o.Reach.CAFile); err != nil {
			return o, fmt.Errorf("--ca: %w", err)
		}
	}
	if o.Dir, err = filepath.Abs(i.Dir); err != nil {
		return o, fmt.Errorf("--dir: %w", err)
	}
	return o, nil
}

// readCertificates returns the certificates in a PEM file and leaves out the rest,
// which may be a private key: the result is copied beside the configuration.
func readCertificates(path string) ([]byte, error) {
	if _, err := fetch.ReadAuthorities(path); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	return out, nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9.:_-]*$`)

// checkAddress returns an error if a is not host:port, or where a socket may be,
// unix:///path.
func checkAddress(a string, socket bool) error {
	if socket && strings.HasPrefix(a, "unix:///") {
		return nil
	}
	host, port, err := net.SplitHostPort(a)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || !hostName.MatchString(host) {
		return fmt.Errorf("%q is not host:port, such as 127.0.0.1:8080", a)
	}
	return nil
}

func (i *initCmd) usualUpstream() string {
	if i.For == starter.Compose {
		return "host.docker.internal:8000"
	}
	return "127.0.0.1:8000"
}

func (i *initCmd) checkIssuer() error {
	var wrong error
	c := issuer.Config{Issuer: i.Issuer, Audiences: []string{"any"}, Config: fetch.Config{Proxy: i.Proxy}}
	switch u, err := url.Parse(i.Issuer); {
	case strings.Contains(i.Issuer, authz.TenantPlaceholder):
		return fmt.Errorf("--issuer: write your tenant's id in the place of %s; docs/identity-providers.md has the configuration of several tenants", authz.TenantPlaceholder)
	case err == nil && u.Scheme == "http" && !authz.IsLoopback(u.Hostname()):
		return errors.New("--issuer: the keys of an http issuer could be replaced on their way; use its https URL (a private certificate authority: --ca FILE)")
	case err == nil && strings.HasSuffix(u.Hostname(), ".okta.com") && strings.Trim(u.Path, "/") == "":
		return fmt.Errorf("--issuer: this is Okta's org authorization server, whose access tokens only Okta can verify; use a custom one, such as %s/oauth2/default", strings.TrimSuffix(i.Issuer, "/"))
	case err == nil && i.For != starter.Envoy && authz.IsLoopback(u.Hostname()):
		return fmt.Errorf("--issuer: a container has a loopback address of its own, so that it cannot reach %s", authz.QuoteURL(i.Issuer))
	}
	c.Validate(func(path, format string, args ...any) {
		if wrong == nil {
			wrong = fmt.Errorf("--%s: %s", path, fmt.Sprintf(format, args...))
		}
	})
	return wrong
}

// explain adds what to do to an error of discovery.
func (i *initCmd) explain(err error) error {
	var mismatch *issuer.MismatchError
	var none *issuer.NoKeysError
	var certificate *tls.CertificateVerificationError
	var status fetch.StatusError
	var network net.Error
	hint := "the document must be the issuer's discovery document (OpenID Connect Discovery 1.0, or RFC 8414); without one, write the configuration yourself, with jwks: docs/identity-providers.md"
	switch {
	case errors.As(err, &mismatch) && strings.TrimSuffix(mismatch.Claimed, "/") == strings.TrimSuffix(mismatch.Issuer, "/"):
		hint = fmt.Sprintf("they differ in the slash at the end, which belongs to the name: --issuer %s", shellQuote(printable(mismatch.Claimed)))
	case errors.As(err, &mismatch) && strings.Contains(mismatch.Claimed, authz.TenantPlaceholder):
		hint = "use the issuer of your tenant, with its id; docs/identity-providers.md has the configuration of several tenants"
	case errors.As(err, &mismatch):
		hint = fmt.Sprintf("compare with iss of a token; if it is the claimed one: --issuer %s", shellQuote(printable(mismatch.Claimed)))
	case errors.As(err, &none):
		hint = "the provider must publish a public key for RS, PS, ES or EdDSA signatures; HMAC (HS256) is never accepted, because its key signs as well"
	case errors.As(err, &certificate):
		hint = "name the certificate authority of the issuer's server: --ca FILE"
	case errors.As(err, &status) && status == 404:
		hint = "the issuer is exactly the iss of its tokens, and the discovery document is below it; without such a document, write the configuration yourself, with jwks: docs/identity-providers.md"
	case errors.As(err, &network):
		hint = "check the name and the way to it from this machine (a proxy: --proxy URL)"
	}
	return fmt.Errorf("nothing was written: %w\nhint: %s", err, hint)
}

// writeAll writes all files to dir, or none. as is how the user calls dir.
func writeAll(dir, as string, files []starter.File) (err error) {
	var existing []string
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f.Name)); err == nil {
			existing = append(existing, filepath.Join(as, f.Name))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	if len(existing) > 0 {
		return fmt.Errorf("nothing was written, because there is already: %s\nhint: move it away, or choose another --dir", strings.Join(existing, ", "))
	}
	var made []string
	defer func() {
		if err == nil {
			return
		}
		for n := len(made) - 1; n >= 0; n-- {
			err = errors.Join(err, os.Remove(made[n]))
		}
		err = fmt.Errorf("nothing was written: %w", err)
	}()
	for _, f := range files {
		name := filepath.Join(dir, f.Name)
		missing, err := missingDirs(filepath.Dir(name))
		if err != nil {
			return err
		}
		for _, d := range missing {
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
			made = append(made, d)
		}
		mode := fs.FileMode(0o644)
		if f.Secret {
			mode = 0o600
		}
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		made = append(made, name)
		_, err = file.Write(f.Text)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// missingDirs returns the directories that must be made for dir, outermost first.
func missingDirs(dir string) (missing []string, err error) {
	for {
		_, err := os.Stat(dir)
		if err == nil {
			return missing, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return nil, err
		}
		missing = append([]string{dir}, missing...)
		dir = filepath.Dir(dir)
	}
}

// next returns the commands that follow.
func (i *initCmd) next(o starter.Options) []string {
	at := func(name string) string { return shellQuote(filepath.Join(i.Dir, name)) }
	const reason = `--reason "trying it out" <<<"$TOKEN"`
	call := fmt.Sprintf(`curl -i -H "Authorization: Bearer $TOKEN" http://%s/`, o.Listen)
	switch i.For {
	case starter.Envoy:
		program := "jwt-bouncer --config " + at("jwt-bouncer.yaml")
		return []string{
			program + " serve &", "envoy -c " + at("envoy.yaml") + " --disable-hot-restart &", call + "   # 200 from " + o.Upstream,
			program + " revoke --token - " + reason, call + "   # 401",
		}
	case starter.Compose:
		compose := "docker compose -f " + at("docker-compose.yml")
		return []string{
			compose + " up --wait", call + "   # 200 from " + o.Upstream,
			compose + " exec -T jwt-bouncer /jwt-bouncer revoke --token - " + reason, call + "   # 401",
		}
	}
	lines := []string{
		"kubectl apply -k " + shellQuote(i.Dir),
		"kubectl -n jwt-bouncer rollout status deployment/jwt-bouncer",
		"kubectl -n jwt-bouncer exec -i deploy/jwt-bouncer -- /jwt-bouncer revoke --token - " + reason,
	}
	if i.Image == "" {
		lines = append([]string{"# first build the image, and name it in kustomization.yaml: docs/kubernetes.md"}, lines...)
	}
	if i.For == starter.Istio {
		lines = append([]string{"istioctl install -f " + at("manifests/overlays/istio/mesh-config.yaml") + "   # or merge it into your meshConfig"}, lines...)
	} else {
		lines = append([]string{"# name your Service and host in " + at("manifests/overlays/envoy-gateway/gateway.yaml")}, lines...)
	}
	return append([]string{"# keep " + at("secrets.env") + " and " + at("api-token") + " out of version control: they hold new secrets"}, lines...)
}

var shellSafe = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=-]+$`)

// shellQuote returns s as one word of a shell.
func shellQuote(s string) string {
	if shellSafe.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
