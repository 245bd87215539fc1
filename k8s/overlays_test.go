package k8s

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOverlays(t *testing.T) {
	t.Parallel()
	for _, dir := range overlays(t) {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			objects, err := build(t, dir)
			require.NoError(t, err)
			assert.NoError(t, check(objects))
		})
	}
}

// The monitoring component, for clusters with the Prometheus operator, can be
// added to both ways of deploying.
func TestMonitored(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"overlays/shared", "overlays/sidecar"} {
		objects, err := build(t, dir, monitored(dir))
		require.NoError(t, err)
		assert.NoError(t, check(objects))
		for _, name := range []string{"PodMonitor/jwt-bouncer", "PrometheusRule/jwt-bouncer", "ConfigMap/jwt-bouncer-dashboard"} {
			find(t, objects, name)
		}
	}
}

// An overlay uses CRDs only of the project that it is for: `kubectl apply` and
// `helm install` fail on a cluster without the CRD.
func TestNoForeignKinds(t *testing.T) {
	t.Parallel()
	needs := map[string][]string{
		"overlays/istio":         {"networking.istio.io", "security.istio.io"},
		"overlays/envoy-gateway": {"gateway.networking.k8s.io", "gateway.envoyproxy.io"},
	}
	sets := map[string][]object{"chart": render(t, nil)}
	for _, dir := range overlays(t) {
		objects, err := build(t, dir)
		require.NoError(t, err)
		sets[dir] = objects
	}
	for dir, objects := range sets {
		for _, o := range objects {
			group, _, _ := strings.Cut(o.version, "/")
			assert.Falsef(t, strings.Contains(group, ".") && group != "networking.k8s.io" && !slices.Contains(needs[dir], group), "%s has %s of %s, a CRD that the cluster may lack", dir, o, o.version)
		}
	}
}

// The checks find every kind of mistake.
func TestBrokenCopies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dir  string
		edit edit
		want string
	}{
		"unknown field":             {"overlays/shared", edit{"base/deployment.yaml", "terminationGracePeriodSeconds:", "terminationGraceSeconds:"}, `unknown field "terminationGraceSeconds"`},
		"wrong type":                {"overlays/shared", edit{"base/deployment.yaml", "containerPort: 9191", `containerPort: "9191"`}, "cannot unmarshal string"},
		"enum typo":                 {"overlays/shared", edit{"overlays/shared/spread.yaml", "whenUnsatisfiable: ScheduleAnyway", "whenUnsatisfiable: ScheduleAnyways"}, `"ScheduleAnyways" is none of`},
		"native sidecar typo":       {"overlays/sidecar", edit{"overlays/sidecar/workload.yaml", "restartPolicy: Always", "restartPolicy: Alway"}, `"Alway" is none of`},
		"duplicate key":             {"overlays/sidecar", edit{"overlays/sidecar/workload.yaml", "  replicas: 2", "  replicas: 2\n  replicas: 3"}, "already defined"},
		"privileged":                {"overlays/shared", edit{"base/deployment.yaml", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"}, "allowPrivilegeEscalation != false"},
		"root":                      {"overlays/shared", edit{"base/deployment.yaml", "runAsNonRoot: true", "runAsNonRoot: false"}, "runAsNonRoot != true"},
		"capabilities kept":         {"overlays/shared", edit{"components/redis/redis.yaml", "capabilities: {drop: [ALL]}", "capabilities: {}"}, "unrestricted capabilities"},
		"host path":                 {"overlays/sidecar", edit{"overlays/sidecar/workload.yaml", "emptyDir: {medium: Memory, sizeLimit: 1Mi}", "hostPath: {path: /run}"}, "restricted volume types"},
		"writable root":             {"overlays/shared", edit{"base/deployment.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"}, "root filesystem is writable"},
		"no memory limit":           {"overlays/shared", edit{"base/deployment.yaml", "limits: {memory: 512Mi}", "limits: {}"}, "memory limit"},
		"latest":                    {"overlays/envoy", edit{"overlays/envoy/envoy.yaml", "distroless-v1.40.0", "latest"}, "no fixed tag"},
		"no readiness probe":        {"overlays/shared", edit{"base/deployment.yaml", "readinessProbe:", "# readinessProbe:"}, "without a readiness probe"},
		"startup by readiness":      {"overlays/shared", edit{"base/deployment.yaml", "startupProbe: {httpGet: {path: /livez", "startupProbe: {httpGet: {path: /readyz"}, "restarted for not being ready"},
		"liveness by readiness":     {"overlays/sidecar", edit{"overlays/sidecar/workload.yaml", "livenessProbe: {httpGet: {path: /livez", "livenessProbe: {httpGet: {path: /readyz"}, "restarted for not being ready"},
		"startup gives up":          {"overlays/sidecar", edit{"overlays/sidecar/workload.yaml", "failureThreshold: 31536000", "failureThreshold: 120"}, "restarted for not being ready"},
		"probe's port":              {"overlays/shared", edit{"base/deployment.yaml", "{name: http, containerPort: 9192}", "{name: web, containerPort: 9192}"}, `port "http", which is not declared`},
		"service's port":            {"overlays/shared", edit{"base/service.yaml", "targetPort: grpc", "targetPort: rpc"}, `has no port "rpc"`},
		"service's selector":        {"overlays/shared", edit{"components/redis/redis.yaml", "selector: *labels", "selector: {app: redis}"}, "Service/redis selects no pod"},
		"secret's key":              {"overlays/shared", edit{"components/common/secrets.env", "store-password=", "store-pasword="}, `Deployment/jwt-bouncer uses key "store-password"`},
		"redis' own secret":         {"overlays/shared", edit{"components/common/secrets.env", "redis-password=", "redis-pasword="}, `StatefulSet/redis uses key "redis-password"`},
		"config map's name":         {"overlays/sidecar", edit{"overlays/sidecar/workload.yaml", "configMap: {name: envoy-config}", "configMap: {name: envoy-configs}"}, "ConfigMap/envoy-configs, which does not exist"},
		"undeclared volume":         {"overlays/shared", edit{"base/deployment.yaml", "{name: config, mountPath", "{name: conf, mountPath"}, `volume "conf"`},
		"mount inside read-only":    {"overlays/shared", edit{"base/deployment.yaml", "mountPath: /etc/jwt-bouncer-secrets", "mountPath: /etc/jwt-bouncer/secrets"}, "inside the read-only mount"},
		"autoscaler's target":       {"overlays/shared", edit{"overlays/shared/scaling.yaml", "kind: Deployment, name: jwt-bouncer", "kind: Deployment, name: jwt-bounce"}, "which does not exist"},
		"product: unknown key":      {"overlays/shared", edit{"base/auth-config.yaml", "max_staleness:", "max_stalenes:"}, "unknown key"},
		"product: bad value":        {"overlays/sidecar", edit{"overlays/sidecar/auth-config.yaml", "unix:///run", "unix://run"}, "listen.grpc"},
		"envoy: unknown field":      {"overlays/envoy", edit{"overlays/envoy/bootstrap.yaml", "failure_mode_allow:", "failure_mode_allows:"}, "failure_mode_allows"},
		"envoy: 403 without it":     {"overlays/sidecar", edit{"overlays/sidecar/bootstrap.yaml", "status_on_error: {code: ServiceUnavailable}", "status_on_error: {code: Forbidden}"}, "1 external authorizations and 0 times"},
		"envoy: open without it":    {"overlays/envoy", edit{"overlays/envoy/bootstrap.yaml", "failure_mode_allow: false", "failure_mode_allow: true"}, "1 external authorizations and 0 times"},
		"envoy: bad enum":           {"overlays/sidecar", edit{"overlays/sidecar/bootstrap.yaml", "REJECT_REQUEST", "REJECT_REQUESTS"}, "REJECT_REQUESTS"},
		"istio: unknown field":      {"overlays/istio", edit{"overlays/istio/policy.yaml", "provider: {name", "provider: {nam"}, "nam"},
		"istio: enum typo":          {"overlays/istio", edit{"overlays/istio/policy.yaml", "action: CUSTOM", "action: CUSTOMS"}, "CUSTOMS"},
		"istio: resolution":         {"overlays/istio", edit{"overlays/istio/local.yaml", "resolution: STATIC", "resolution: STATICS"}, "STATICS"},
		"gateway: enum typo":        {"overlays/envoy-gateway", edit{"overlays/envoy-gateway/gateway.yaml", "type: PathPrefix", "type: PathPrefixes"}, "type"},
		"gateway: unknown field":    {"overlays/envoy-gateway", edit{"overlays/envoy-gateway/gateway.yaml", "failOpen:", "failOpened:"}, "failOpened"},
		"gateway: escaped slashes":  {"overlays/envoy-gateway", edit{"overlays/envoy-gateway/gateway.yaml", "RejectRequest", "RejectRequests"}, "escapedSlashesAction"},
		"gateway: target missing":   {"overlays/envoy-gateway", edit{"overlays/envoy-gateway/gateway.yaml", "grpc:\n      backendRefs", "grpcs:\n      backendRefs"}, "grpcs"},
		"helm hook":                 {"overlays/shared", edit{"components/common/migration.yaml", "  annotations:\n", "  annotations:\n    helm.sh/hook: post-install\n"}, "Helm's hook"},
		"argo hook":                 {"overlays/shared", edit{"components/common/migration.yaml", "argocd.argoproj.io/hook: Sync", "argocd.argoproj.io/hook: PreSync"}, "Argo CD's hook"},
		"argo hook stays":           {"overlays/shared", edit{"components/common/migration.yaml", "argocd.argoproj.io/hook-delete-policy: BeforeHookCreation", "argocd.argoproj.io/hook-delete-policy: HookSucceeded"}, "Argo CD's hook"},
		"pooler: statement pooling": {"overlays/pooled", edit{"components/pgbouncer/pgbouncer.ini", "pool_mode = transaction", "pool_mode = statement"}, "pool_mode"},
		"pooler: no password":       {"overlays/pooled", edit{"components/pgbouncer/pgbouncer.ini", "auth_type = scram-sha-256", "auth_type = any"}, "auth_type"},
		"pooler: root":              {"overlays/pooled", edit{"components/pgbouncer/pgbouncer.yaml", "runAsNonRoot: true, ", ""}, "runAsNonRoot != true"},
		"pooler: latest":            {"overlays/pooled", edit{"components/pgbouncer/pgbouncer.yaml", "edoburu/pgbouncer:v1.24.1-p1", "edoburu/pgbouncer:latest"}, "no fixed tag"},
		"pooler: Secret's key":      {"overlays/pooled", edit{"components/pgbouncer/pgbouncer.yaml", "secretName: pgbouncer-users", "secretName: pgbouncer-user"}, "which does not exist"},
		"unknown kind":              {"overlays/shared", edit{"overlays/shared/scaling.yaml", "kind: PodDisruptionBudget", "kind: PodDisruptionBudgets"}, "no type is known"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			edits := []edit{c.edit}
			if c.dir == "overlays/pooled" { // shared, with the component pgbouncer
				c.dir = "overlays/shared"
				edits = append(edits, pooled(c.dir))
			}
			objects, err := build(t, c.dir, edits...)
			if err == nil {
				err = check(objects)
			}
			if assert.Errorf(t, err, "want an error with %q", c.want) {
				assert.Containsf(t, err.Error(), c.want, "want an error with %q, got: %v", c.want, err)
			}
		})
	}
}
