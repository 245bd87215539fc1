package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"jwtbouncer/authz"
)

// maxDump bounds the configuration of a proxy, in bytes. Istio's largest are about
// 100 MiB.
const maxDump = 256 << 20

// ReadFile returns the configuration in a file: the output of /config_dump, or a
// bootstrap configuration in YAML or JSON.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readDump(f)
}

// ReadAdmin asks Envoy's admin interface at base for its configuration. Unless
// plaintext is set, base must be https or a loopback address: the dump has the
// names of everything behind the proxy.
func ReadAdmin(ctx context.Context, base string, plaintext bool) ([]byte, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("a URL is needed, such as http://127.0.0.1:9901")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the URL must have no user, query or fragment")
	case u.Scheme == "http" && !plaintext && !authz.IsLoopback(u.Hostname()):
		return nil, fmt.Errorf("%s is not a loopback address, and http would show the configuration to the network: use https, run the doctor beside Envoy, or pass --envoy-admin-plaintext", u.Hostname())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/config_dump", http.NoBody)
	if err != nil {
		return nil, err
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // and no proxy of the environment
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("it redirects") },
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", resp.Status)
	}
	return readDump(resp.Body)
}

func readDump(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDump+1))
	if err == nil && len(text) > maxDump {
		err = fmt.Errorf("it is larger than %d MiB", maxDump>>20)
	}
	return text, err
}

// proxyConfig is an Envoy's configuration, wherever it came from.
type proxyConfig struct {
	bootstrap node
	listeners []node
	clusters  map[string]node
	routes    map[string]node   // route configurations that a listener names
	scopes    map[string][]node // scoped routes that a listener names
	filters   map[string]node   // HTTP filters that a listener names (ECDS)
	rejected  []string          // listeners of which Envoy has refused the newest version
	file      bool              // a bootstrap file: nothing that a control plane adds is in it
}

func readProxy(text []byte) (*proxyConfig, error) {
	root, err := parseTree(text)
	if err != nil {
		return nil, err
	}
	c := &proxyConfig{clusters: map[string]node{}, routes: map[string]node{}, scopes: map[string][]node{}, filters: map[string]node{}}
	switch {
	case root.get("configs").exists():
		c.addDump(root)
	case root.get("static_resources").exists(), root.get("dynamic_resources").exists():
		c.file = true
		c.bootstrap = root
	default:
		return nil, errors.New("it has neither configs, as the output of /config_dump, nor static_resources, as a bootstrap configuration")
	}
	static := c.bootstrap.get("static_resources")
	if len(c.listeners) == 0 {
		c.listeners = static.get("listeners").list()
	}
	if len(c.clusters) == 0 {
		for _, cl := range static.get("clusters").list() {
			c.clusters[cl.get("name").str()] = cl
		}
	}
	return c, nil
}

// addDump reads the sections of envoy.admin.v3.ConfigDump. It passes over those
// that hold nothing of interest.
func (c *proxyConfig) addDump(root node) {
	for _, section := range root.get("configs").list() {
		name, s := section.message()
		switch name {
		case "envoy.admin.v3.BootstrapConfigDump":
			c.bootstrap = s.get("bootstrap")
		case "envoy.admin.v3.ListenersConfigDump":
			for _, l := range s.get("static_listeners").list() {
				c.listeners = append(c.listeners, l.get("listener"))
			}
			for _, l := range s.get("dynamic_listeners").list() {
				if l.get("error_state").exists() {
					c.rejected = append(c.rejected, l.get("name").str())
				}
				for _, state := range []string{"active_state", "warming_state"} {
					if in := l.get(state, "listener"); in.exists() {
						c.listeners = append(c.listeners, in)
					}
				}
			}
		case "envoy.admin.v3.ClustersConfigDump":
			for _, field := range []string{"dynamic_warming_clusters", "dynamic_active_clusters", "static_clusters"} {
				for _, cl := range s.get(field).list() {
					c.clusters[cl.get("cluster", "name").str()] = cl.get("cluster")
				}
			}
		case "envoy.admin.v3.RoutesConfigDump":
			for _, r := range s.get("dynamic_route_configs").list() {
				c.routes[r.get("route_config", "name").str()] = r.get("route_config")
			}
		case "envoy.admin.v3.ScopedRoutesConfigDump":
			for _, field := range []string{"inline_scoped_route_configs", "dynamic_scoped_route_configs"} {
				for _, set := range s.get(field).list() {
					c.scopes[set.get("name").str()] = set.get("scoped_route_configs").list()
				}
			}
		case "envoy.admin.v3.EcdsConfigDump":
			for _, f := range s.get("ecds_filters").list() {
				c.filters[f.get("ecds_filter", "name").str()] = f.get("ecds_filter", "typed_config")
			}
		}
	}
}
