package starter

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"embed"
	_ "embed"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/jose"
	"jwtbouncer/envoy"
)

// Targets of Options.For.
const (
	Envoy        = "envoy"
	Compose      = "compose"
	Istio        = "istio"
	EnvoyGateway = "envoy-gateway"
)

// Options say for whom the files are.
type Options struct {
	Metadata  *issuer.Metadata
	Issuer    string
	Audiences []string     // at least one
	Clients   []string     // client ids whose logouts are taken; empty: none
	Reach     fetch.Config // how the issuer is reached; files by absolute paths
	CA        []byte       // the certificates in Reach.CAFile, in PEM
	For       string       // a target
	Dir       string       // absolute path of the directory that the files are for
	Store     string       // URL; empty: SQLite, and with Kubernetes the manifests' Postgres
	Listen    string       // host:port of Envoy's listener
	GRPC      string       // listen.grpc, with the target Envoy
	HTTP      string       // listen.http, with the target Envoy
	Upstream  string       // host:port of the protected service
	Image     string       // of jwt-bouncer, NAME:TAG; empty: that of the manifests
}

// File is a file to write.
type File struct {
	Name   string // relative to Options.Dir, with slashes
	Text   []byte
	Secret bool // holds a secret that was made for it
}

// Plan is what Make returns.
type Plan struct {
	Provider string // the kind of identity provider
	Notes    []string
	Files    []File // the configuration first
}

const (
	configFile = "jwt-bouncer.yaml"
	envoyFile  = "envoy.yaml"
	caFile     = "ca.pem"
	// The directory of the configuration in the image.
	imageConfigDir = "/etc/jwt-bouncer/"
	socketPort     = "9191"
)

// Make returns the files for the target. The caller has checked the addresses.
func Make(o Options) (Plan, error) {
	p := recognize(o.Issuer, o.Metadata.Members)
	config, err := configuration(o, p)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Provider: p.name, Notes: p.notes, Files: []File{{Name: configFile, Text: config}}}
	switch o.For {
	case Envoy:
		err = plan.addEnvoy(envoy.Sample{Listen: o.Listen, Service: o.GRPC, Upstream: o.Upstream})
	case Compose:
		err = plan.addCompose(o)
	default:
		err = plan.addKubernetes(o)
	}
	return plan, err
}

func (p *Plan) add(name string, text []byte) { p.Files = append(p.Files, File{Name: name, Text: text}) }

func (p *Plan) addEnvoy(s envoy.Sample) error {
	text, err := envoy.SampleConfig(s)
	p.add(envoyFile, []byte(text))
	return err
}

//go:embed compose.yaml.tmpl
var composeText string

var composeTemplate = template.Must(template.New("docker-compose.yml").Funcs(template.FuncMap{"yaml": scalar}).Parse(composeText))

// composeFile holds the parameters of the compose file.
type composeFile struct {
	Demo   bool // with an issuer, an upstream, Redis and Postgres, for trying out
	Image  string
	Listen string // host:port where Envoy is published
	CA     bool   // a certificate authority is mounted
}

func (c composeFile) render() ([]byte, error) {
	var b bytes.Buffer
	err := composeTemplate.Execute(&b, c)
	return b.Bytes(), err
}

func (p *Plan) addCompose(o Options) error {
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		return err
	}
	c := composeFile{Image: cmp.Or(o.Image, "jwt-bouncer:dev"), Listen: o.Listen, CA: len(o.CA) > 0}
	text, err := c.render()
	if err != nil {
		return err
	}
	p.add("docker-compose.yml", text)
	if c.CA {
		p.add(caFile, o.CA)
	}
	return p.addEnvoy(envoy.Sample{Listen: "0.0.0.0:8080", Service: "jwt-bouncer:" + socketPort, Upstream: o.Upstream})
}

// manifests are copies of base, components and overlays of the module k8s, which
// this module cannot embed. A test of that module keeps them equal.
//
//go:embed all:manifests
var manifests embed.FS

func (p *Plan) addKubernetes(o Options) error {
	files := []string{configFile}
	if len(o.CA) > 0 {
		p.add(caFile, o.CA)
		files = append(files, caFile)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# The overlay %[1]s with this identity provider. docs/kubernetes.md says what else
# belongs here: a database and a Redis of your own, monitoring, network policies.
# Set no namespace here: the overlay's objects have theirs.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [manifests/overlays/%[1]s]
`, o.For)
	if o.Image != "" {
		name, tag, ok := cutTag(o.Image)
		if !ok {
			return fmt.Errorf("the image %q has no tag; NAME:TAG is needed", o.Image)
		}
		fmt.Fprintf(&b, "images: [{name: jwt-bouncer, newName: %s, newTag: %s}]\n", scalar(name), scalar(tag))
	}
	fmt.Fprintf(&b, `configMapGenerator:
  - name: auth-config
    behavior: replace
    files: [%s]
secretGenerator:
  - name: jwt-bouncer-secrets
    behavior: replace
    envs: [secrets.env]
    files: [api-token]
generatorOptions: {disableNameSuffixHash: true}
`, strings.Join(files, ", "))
	p.add("kustomization.yaml", []byte(b.String()))
	p.Files = append(p.Files,
		File{Name: "secrets.env", Secret: true, Text: fmt.Appendf(nil, "store-password=%s\nstore-owner-password=%s\nredis-password=%s\n", rand.Text(), rand.Text(), rand.Text())},
		File{Name: "api-token", Secret: true, Text: fmt.Appendf(nil, "operator %s\n", rand.Text())})
	return fs.WalkDir(manifests, "manifests", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if overlay := strings.Split(name, "/")[2]; strings.HasPrefix(name, "manifests/overlays/") && overlay != "shared" && overlay != o.For {
			return nil
		}
		text, err := manifests.ReadFile(name)
		p.add(path.Clean(name), text)
		return err
	})
}

// cutTag cuts NAME:TAG. The registry's port is no tag.
func cutTag(image string) (name, tag string, ok bool) {
	i := strings.LastIndexByte(image, ':')
	if i <= 0 || strings.Contains(image[i:], "/") {
		return image, "", false
	}
	return image[:i], image[i+1:], true
}

//go:embed jwt-bouncer.yaml.tmpl
var configText string

var configTemplate = template.Must(template.New(configFile).Funcs(template.FuncMap{"yaml": scalar, "list": list}).Parse(configText))

// configuration returns the configuration file.
func configuration(o Options, p provider) ([]byte, error) {
	c := map[string]any{
		"Provider": p.name, "Notes": p.notes, "Issuer": o.Issuer, "Audiences": o.Audiences, "From": o.Metadata.From,
		"AcceptIDTokens": p.acceptIDTokens, "Reach": o.Reach, "JWKS": "", "Algorithms": o.Metadata.Algorithms,
		"Logout": o.Metadata.Members["backchannel_logout_supported"] == true, "Sessions": p.sessions, "Clients": o.Clients,
		"GRPC": o.GRPC, "HTTP": o.HTTP, "Store": cmp.Or(o.Store, (&url.URL{Scheme: "sqlite", Path: filepath.Join(o.Dir, "revocations.db")}).String()), "OwnStore": o.Store != "",
		"Kubernetes": o.For == Istio || o.For == EnvoyGateway, "Compose": o.For == Compose, "Allow": p.allow,
	}
	if p.keysByHand || !o.Metadata.OpenID {
		c["JWKS"] = o.Metadata.JWKS
	}
	if name, ok := o.Metadata.Members["access_token_issuer"].(string); ok && p.name == "AD FS" {
		c["Issuer"] = name
	}
	if p.clientsOnly {
		c["Audiences"] = []string{"*"}
		c["Allow"] = append(slices.Clone(p.allow), "token.client_id in "+celList(o.Audiences))
	}
	if len(o.Metadata.Algorithms) == len(jose.SupportedAlgorithms) {
		c["Algorithms"] = nil // the default
	}
	switch o.For {
	case Compose:
		c["GRPC"], c["HTTP"] = "0.0.0.0:"+socketPort, "127.0.0.1:9192"
		c["Store"] = cmp.Or(o.Store, "sqlite:///var/lib/jwt-bouncer/revocations.db")
	case Istio, EnvoyGateway:
		c["GRPC"], c["HTTP"] = "0.0.0.0:"+socketPort, "0.0.0.0:9192"
	}
	if len(o.CA) > 0 && o.For != Envoy {
		o.Reach.CAFile = imageConfigDir + caFile
		c["Reach"] = o.Reach
	}
	var b bytes.Buffer
	err := configTemplate.Execute(&b, c)
	return b.Bytes(), err
}

var plain = regexp.MustCompile(`^([a-z]+://[A-Za-z0-9._/:%=&?-]*[A-Za-z0-9/_-]|/[A-Za-z0-9._/-]+|[A-Za-z][A-Za-z0-9_-]*|[0-9.]+:[0-9]+)$`)

// words are what YAML 1.1 or 1.2 reads as something other than text.
var words = []string{"true", "false", "yes", "no", "on", "off", "null", "y", "n"}

// scalar returns s as a YAML scalar that is text, in flow style too.
func scalar(s string) string {
	if plain.MatchString(s) && !slices.Contains(words, strings.ToLower(s)) {
		return s
	}
	return strconv.Quote(s)
}

func list(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = scalar(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// celList returns a list of strings in CEL, for a plain YAML scalar.
func celList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
