package istio

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
	"jwtbouncer/test/live"
)

func TestMain(m *testing.M) { live.Main(m) }

const (
	authorizerIP = "10.244.1.10"
	gatewayIP    = "10.244.1.20"
	workloadIP   = "10.244.1.30"
	inProcessIP  = "10.244.1.40"
	host         = "app.example"
)

// TestInProcess applies the EnvoyFilter of docs/in-process.md, and sends requests through
// an ingress gateway that decides in its own process.
func TestInProcess(t *testing.T) {
	guide := live.ReadSection(t, "in-process.md", "### Istio")
	c := cluster(t)
	istiod(t, c)
	rig := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: live.Configuration(t)})
	c.Apply(t, live.NewInProcess(t, rig).Paths(t, guide.Block(t, `kind: EnvoyFilter`)))
	gateway := proxy{namespace: "istio-system", name: "ingressgateway", ip: live.AddAddress(t, inProcessIP), labels: map[string]string{"istio": "ingressgateway"}}
	gateway.create(t, c, rig.Upstream.Addr, "")
	envoy := gateway.start(t)
	live.Decisions(t, harness.FrontAt(t, envoy, gateway.listener()), host, rig)
	require.Equal(t, 1, strings.Count(envoy.Log(), "running in this process"))
}

// cluster returns a cluster with Istio's kinds.
func cluster(t *testing.T) *live.Cluster {
	t.Helper()
	c := live.NewCluster(t)
	c.ApplyCRDs(t, filepath.Join(live.ModuleDir(t, "istio", "istio.io/api"), "kubernetes", "customresourcedefinitions.gen.yaml"))
	c.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system}\n")
	return c
}

// TestGuide applies the overlay for Istio, and sends requests through an ingress
// gateway that asks the shared service, and through a proxy that asks the sidecar in
// its own pod, over the Unix socket.
func TestGuide(t *testing.T) {
	guide := live.ReadGuide(t, "istio.md")
	c := cluster(t)
	c.Run(t, "kubectl apply --server-side --validate=strict --warnings-as-errors -k k8s/overlays/istio")
	istiod(t, c)

	t.Run("gateway", func(t *testing.T) {
		rig := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: live.Configuration(t),
			Bouncer: harness.BouncerOptions{GRPC: live.AddAddress(t, authorizerIP) + ":9191"}})
		// One pod of the overlay's Deployment is this sidecar. The controllers make no
		// endpoints of a pod without a node.
		c.RunPod(t, "jwt-bouncer", "app.kubernetes.io/component=authorizer", authorizerIP)
		c.Apply(t, `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: jwt-bouncer-live, namespace: jwt-bouncer, labels: {kubernetes.io/service-name: jwt-bouncer}}
addressType: IPv4
ports: [{name: grpc, port: 9191, protocol: TCP, appProtocol: grpc}]
endpoints: [{addresses: [`+authorizerIP+`], conditions: {ready: true}}]
`)
		gateway := proxy{namespace: "istio-system", name: "ingressgateway", ip: live.AddAddress(t, gatewayIP), labels: map[string]string{"istio": "ingressgateway"}}
		gateway.create(t, c, rig.Upstream.Addr, "")
		gateway.start(t)
		live.Requests(t, harness.FrontAt(t, nil, gateway.listener()), host, rig)
	})

	t.Run("workload's pod", func(t *testing.T) {
		socket := filepath.Join(harness.Dir(t), "authz.sock")
		rig := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: live.Configuration(t), Bouncer: harness.BouncerOptions{GRPC: "unix://" + socket}})
		local, err := os.ReadFile(filepath.Join(harness.Root(), "k8s", "overlays", "istio", "local.yaml"))
		require.NoError(t, err)
		c.Apply(t, live.Patch(t, string(local), "unix:///run/jwt-bouncer/authz.sock", "unix://"+socket))
		var template struct {
			Metadata struct{ Labels, Annotations map[string]string }
		}
		require.NoError(t, yaml.Unmarshal([]byte(guide.Block(t, `jwt-bouncer.io/enforce: local`)), &template))
		annotations, err := yaml.MarshalWithOptions(template.Metadata.Annotations, yaml.JSON())
		require.NoError(t, err)
		workload := proxy{namespace: "jwt-bouncer", name: "workload", ip: live.AddAddress(t, workloadIP), labels: template.Metadata.Labels}
		workload.create(t, c, rig.Upstream.Addr, string(annotations))
		workload.start(t)
		live.Requests(t, harness.FrontAt(t, nil, workload.listener()), host, rig)
	})
}

// istiod starts istiod with the overlay's mesh configuration. Without a certificate
// authority there is no mutual TLS: it could only be between proxies with certificates
// of Istio's agent.
func istiod(t *testing.T, c *live.Cluster) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "k8s", "overlays", "istio", "mesh-config.yaml"))
	require.NoError(t, err)
	var operator struct {
		Spec struct {
			MeshConfig map[string]any `yaml:"meshConfig"`
		}
	}
	require.NoError(t, yaml.Unmarshal(b, &operator))
	operator.Spec.MeshConfig["enableAutoMtls"] = false
	mesh, err := yaml.Marshal(operator.Spec.MeshConfig)
	require.NoError(t, err)
	dir := harness.Dir(t)
	harness.Server(t, harness.ServerOptions{Name: "istiod", Path: harness.LivePath(t, "istiod"), Dir: dir,
		Args: []string{"discovery", "--kubeconfig", c.Kubeconfig, "--meshConfig", harness.WriteFile(t, dir, "mesh.yaml", string(mesh)),
			"--httpAddr", "127.0.0.1:15080", "--grpcAddr", "127.0.0.1:15010", "--secureGRPCAddr", "", "--httpsAddr", "", "--monitoringAddr", "127.0.0.1:15014", "--ctrlz_port", "0"},
		Env: []string{"POD_NAMESPACE=istio-system", "POD_NAME=istiod", "PILOT_CERT_PROVIDER=none", "ENABLE_CA_SERVER=false",
			"PILOT_ENABLE_ALPN_FILTER=false", "PILOT_ENABLE_METADATA_EXCHANGE=false"}, // filters that only Istio's own Envoy has
		Ready: func(ctx context.Context) error { return harness.GetOK(ctx, "http://127.0.0.1:15080/ready") }})
}

// proxy is an Envoy that istiod configures as a gateway, with its pod and Service.
type proxy struct {
	namespace, name, ip string
	labels              map[string]string
}

func (p proxy) listener() string { return p.ip + ":8080" }

// create creates the proxy's objects and its route to an upstream.
func (p proxy) create(t *testing.T, c *live.Cluster, upstream, annotations string) {
	t.Helper()
	ip, port, err := net.SplitHostPort(upstream)
	require.NoError(t, err)
	if annotations == "" {
		annotations = "{}"
	}
	var labels strings.Builder
	for name, value := range p.labels {
		fmt.Fprintf(&labels, "%s: %s, ", name, value)
	}
	c.Apply(t, strings.NewReplacer("NAMESPACE", p.namespace, "NAME", p.name, "LABELS", strings.TrimSuffix(labels.String(), ", "),
		"ANNOTATIONS", annotations, "UPSTREAM-IP", ip, "UPSTREAM-PORT", port, "HOST", host).Replace(`
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: NAMESPACE, labels: {LABELS}, annotations: ANNOTATIONS}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1337, fsGroup: 1337, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: istio-proxy
      image: proxy
      ports: [{containerPort: 8080}]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: NAMESPACE}
spec: {selector: {LABELS}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  selector: {LABELS}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [HOST]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  hosts: [HOST]
  gateways: [NAME]
  http: [{route: [{destination: {host: upstream.NAME, port: {number: 80}}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: upstream, namespace: NAMESPACE}
spec:
  hosts: [upstream.NAME]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: UPSTREAM-IP, ports: {http: UPSTREAM-PORT}}]
`))
	for name, value := range p.labels {
		c.RunPod(t, p.namespace, name+"="+value, p.ip)
	}
}

// start starts the proxy's Envoy, which takes everything from istiod.
func (p proxy) start(t *testing.T) *harness.EnvoyServer {
	t.Helper()
	labels, err := yaml.MarshalWithOptions(p.labels, yaml.JSON())
	require.NoError(t, err)
	return harness.Envoy(t, strings.NewReplacer("@namespace", p.namespace, "@name", p.name, "@labels", strings.TrimSpace(string(labels)), "@ip", p.ip).Replace(`
node:
  id: router~@ip~@name.@namespace~@namespace.svc.cluster.local
  cluster: @name.@namespace
  metadata: {NAMESPACE: @namespace, LABELS: @labels, NAME: @name, INSTANCE_IPS: @ip, CLUSTER_ID: Kubernetes}
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: istiod}}]}
  cds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
  lds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
static_resources:
  clusters:
    - name: istiod
      connect_timeout: 1s
      load_assignment: {cluster_name: istiod, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 15010}}}}]}]}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
`))
}
