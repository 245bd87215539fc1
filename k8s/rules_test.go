package k8s

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	psaapi "k8s.io/pod-security-admission/api"
	psapolicy "k8s.io/pod-security-admission/policy"
)

// pod is a pod template and the workload it is from.
type pod struct {
	of   string
	tmpl corev1.PodTemplateSpec
	long bool // runs forever and therefore has probes
}

// set holds all objects that an overlay applies.
type set struct {
	objects []any
	pods    []pod
	keys    map[string]map[string]bool // "ConfigMap/name" and "Secret/name" → keys
	names   map[string]bool            // "Kind/name"
}

// check validates the objects that an overlay applies, each and together.
func check(objects []object) error {
	s := set{keys: map[string]map[string]bool{}, names: map[string]bool{}}
	var errs []error
	for _, o := range objects {
		v, err := schema(o)
		errs = append(errs, err)
		if id := o.String() + "@" + o.namespace; s.names[id] {
			errs = append(errs, fmt.Errorf("duplicate object %s", id))
		} else {
			s.names[id], s.names[o.String()] = true, true
		}
		s.objects = append(s.objects, v)
		switch v := v.(type) {
		case *appsv1.Deployment:
			s.pods = append(s.pods, pod{o.String(), v.Spec.Template, true})
			errs = append(errs, selects(o, v.Spec.Selector, v.Spec.Template.Labels))
		case *appsv1.StatefulSet:
			s.pods = append(s.pods, pod{o.String(), v.Spec.Template, true})
			errs = append(errs, selects(o, v.Spec.Selector, v.Spec.Template.Labels))
		case *batchv1.Job:
			s.pods = append(s.pods, pod{o.String(), v.Spec.Template, false})
			errs = append(errs, hooks(o, v))
		case *corev1.ConfigMap:
			s.keys[o.String()] = setOf(maps.Keys(v.Data))
			errs = append(errs, content(v))
		case *corev1.Secret:
			s.keys[o.String()] = setOf(maps.Keys(v.Data))
		}
	}
	for _, p := range s.pods {
		errs = append(errs, s.pod(p))
	}
	for _, v := range s.objects {
		errs = append(errs, s.targets(v))
	}
	return errors.Join(errs...)
}

// hooks checks that a Job is created in the same phase as all other objects. In
// an earlier phase, the objects that it mounts do not exist yet, nor perhaps the
// database. In a later one, Helm and Argo CD would first wait for pods that wait
// for the Job.
func hooks(o object, j *batchv1.Job) error {
	if h := j.Annotations["argocd.argoproj.io/hook"]; h != "Sync" || j.Annotations["argocd.argoproj.io/hook-delete-policy"] != "BeforeHookCreation" {
		return fmt.Errorf("%s: Argo CD's hook %q does not recreate it together with the objects it needs", o, h)
	}
	if h := j.Annotations["helm.sh/hook"]; h != "" {
		return fmt.Errorf("%s: Helm's hook %s runs before the objects it needs or after the pods that need it", o, h)
	}
	return nil
}

// content validates the configurations in a ConfigMap with the programs that read
// them.
func content(c *corev1.ConfigMap) error {
	var errs []error
	for name, text := range c.Data {
		switch name {
		case "jwt-bouncer.yaml":
			errs = append(errs, configCheck(text))
		case "envoy.yaml":
			errs = append(errs, envoyValidate(text))
		case "pgbouncer.ini":
			errs = append(errs, poolerSettings(text))
		case "ca.pem":
			if !x509.NewCertPool().AppendCertsFromPEM([]byte(text)) {
				errs = append(errs, fmt.Errorf("ConfigMap/%s: ca.pem contains no certificate", c.Name))
			}
		case "dashboard.json", "roles.sh": // other tests check them
		default:
			errs = append(errs, fmt.Errorf("ConfigMap/%s: no test checks %s", c.Name, name))
		}
	}
	return errors.Join(errs...)
}

// poolerSettings checks the settings of pgbouncer on which the sidecars' proof of
// freshness and their recovery depend; TestPoolerOfTheManifests in test/outage runs
// the file.
func poolerSettings(text string) error {
	settings := map[string]string{}
	section := ""
	var errs []error
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case line == "" || strings.HasPrefix(line, ";"):
		case strings.HasPrefix(line, "["):
			section = line
		case !ok:
			errs = append(errs, fmt.Errorf("pgbouncer.ini: %q is no setting", line))
		case section == "[pgbouncer]":
			settings[name] = value
		}
	}
	for name, want := range map[string]string{"pool_mode": "transaction", "auth_type": "scram-sha-256", "auth_file": "/etc/pgbouncer-users/userlist.txt", "listen_port": "6432"} {
		if settings[name] != want {
			errs = append(errs, fmt.Errorf("pgbouncer.ini: %s is %q, not %q", name, settings[name], want))
		}
	}
	for _, name := range []string{"server_reset_query_always", "ignore_startup_parameters", "query_timeout", "idle_transaction_timeout"} {
		if v, ok := settings[name]; ok {
			errs = append(errs, fmt.Errorf("pgbouncer.ini: %s = %s is not needed", name, v))
		}
	}
	return errors.Join(errs...)
}

// pod checks a pod template against the restricted Pod Security Standard, our own
// rules, and the other objects.
func (s *set) pod(p pod) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(p.of+": "+format, args...)) }
	evaluator, err := psapolicy.NewEvaluator(psapolicy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	level := psaapi.LevelVersion{Level: psaapi.LevelRestricted, Version: psaapi.LatestVersion()}
	for _, r := range evaluator.EvaluatePod(level, &p.tmpl.ObjectMeta, &p.tmpl.Spec) {
		if !r.Allowed {
			fail("not restricted: %s: %s", r.ForbiddenReason, r.ForbiddenDetail)
		}
	}
	if a := p.tmpl.Spec.AutomountServiceAccountToken; a == nil || *a {
		fail("mounts a service account token, which it does not need")
	}
	if sa := p.tmpl.Spec.ServiceAccountName; sa != "" && !s.names["ServiceAccount/"+sa] {
		fail("there is no ServiceAccount %s", sa)
	}
	volumes := map[string]bool{}
	for _, v := range p.tmpl.Spec.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap != nil {
			errs = append(errs, s.has(p.of, "ConfigMap/"+v.ConfigMap.Name, keysOf(v.ConfigMap.Items)...))
		}
		if v.Secret != nil {
			errs = append(errs, s.has(p.of, "Secret/"+v.Secret.SecretName, keysOf(v.Secret.Items)...))
		}
		if v.Projected != nil {
			for _, source := range v.Projected.Sources {
				if source.Secret == nil {
					fail("no test checks the sources of projected volume %s", v.Name)
				} else if source.Secret.Optional == nil || !*source.Secret.Optional {
					errs = append(errs, s.has(p.of, "Secret/"+source.Secret.Name, keysOf(source.Secret.Items)...))
				}
			}
		}
	}
	init := len(p.tmpl.Spec.InitContainers)
	for i, c := range slices.Concat(p.tmpl.Spec.InitContainers, p.tmpl.Spec.Containers) {
		at := "container " + c.Name + ": "
		sidecar := c.RestartPolicy != nil
		if c.SecurityContext == nil || c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
			fail(at + "the root filesystem is writable")
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
			fail(at + "a cpu request, a memory request or the memory limit is missing")
		}
		if name, tag, ok := strings.Cut(c.Image, ":"); !ok || tag == "latest" || name == "" {
			fail(at+"image %q has no fixed tag", c.Image)
		}
		if p.long && (i >= init || sidecar) && len(c.Ports) > 0 && c.ReadinessProbe == nil {
			fail(at + "serves a port without a readiness probe")
		}
		ports := map[string]bool{}
		for _, port := range c.Ports {
			ports[port.Name] = true
		}
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
			if port, ok := probePort(probe); ok && port.Type == intstr.String && !ports[port.StrVal] {
				fail(at+"a probe uses port %q, which is not declared", port.StrVal)
			}
		}
		errs = append(errs, restarts(p.of+": "+at, c))
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] && !strings.HasPrefix(p.of, "StatefulSet/") {
				fail(at+"mounts volume %q, which is not declared", m.Name)
			}
			for _, other := range c.VolumeMounts {
				if other.ReadOnly && strings.HasPrefix(m.MountPath, other.MountPath+"/") {
					fail(at+"%s is inside the read-only mount %s, where no mount point can be made", m.MountPath, other.MountPath)
				}
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				errs = append(errs, s.has(p.of, "Secret/"+e.ValueFrom.SecretKeyRef.Name, e.ValueFrom.SecretKeyRef.Key))
			}
		}
	}
	return errors.Join(errs...)
}

// restarts checks that no probe restarts a container because it is not ready:
// readiness depends on the store and the issuer, and a restart repairs neither.
// Only the startup probe of a native sidecar may use readiness, because nothing
// else delays the next container; it must then never give up.
func restarts(at string, c corev1.Container) error {
	for _, p := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe} {
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != "/readyz" {
			continue
		}
		patience := time.Duration(max(p.PeriodSeconds, 1)) * time.Second * time.Duration(p.FailureThreshold)
		if p != c.StartupProbe || c.RestartPolicy == nil || patience < 30*24*time.Hour {
			return errors.New(at + "is restarted for not being ready")
		}
	}
	return nil
}

func probePort(p *corev1.Probe) (intstr.IntOrString, bool) {
	switch {
	case p == nil:
	case p.HTTPGet != nil:
		return p.HTTPGet.Port, true
	case p.TCPSocket != nil:
		return p.TCPSocket.Port, true
	}
	return intstr.IntOrString{}, false
}

// targets checks that an object selects, scales and refers to existing objects.
func (s *set) targets(v any) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch v := v.(type) {
	case *corev1.Service:
		pods := s.matching(labels.SelectorFromSet(v.Spec.Selector))
		if len(pods) == 0 {
			fail("Service/%s selects no pod", v.Name)
		}
		for _, port := range v.Spec.Ports {
			for _, p := range pods {
				if port.TargetPort.Type == intstr.String && !declares(p, port.TargetPort.StrVal) {
					fail("Service/%s: %s has no port %q", v.Name, p.of, port.TargetPort.StrVal)
				}
			}
		}
	case *autoscalingv2.HorizontalPodAutoscaler:
		if ref := v.Spec.ScaleTargetRef; !s.names[ref.Kind+"/"+ref.Name] {
			fail("HorizontalPodAutoscaler/%s scales %s/%s, which does not exist", v.Name, ref.Kind, ref.Name)
		}
	case *policyv1.PodDisruptionBudget:
		if len(s.matching(selector(v.Spec.Selector))) == 0 {
			fail("PodDisruptionBudget/%s selects no pod", v.Name)
		}
	case *networkingv1.NetworkPolicy:
		pods := s.matching(selector(&v.Spec.PodSelector))
		if len(pods) == 0 {
			fail("NetworkPolicy/%s selects no pod", v.Name)
		}
		for _, rule := range v.Spec.Ingress {
			for _, port := range rule.Ports {
				if port.Port.Type == intstr.String && !slices.ContainsFunc(pods, func(p pod) bool { return declares(p, port.Port.StrVal) }) {
					fail("NetworkPolicy/%s: none of its pods has a port %q", v.Name, port.Port.StrVal)
				}
			}
		}
	}
	return errors.Join(errs...)
}

func declares(p pod, port string) bool {
	for _, c := range slices.Concat(p.tmpl.Spec.InitContainers, p.tmpl.Spec.Containers) {
		for _, have := range c.Ports {
			if have.Name == port {
				return true
			}
		}
	}
	return false
}

func (s *set) matching(sel labels.Selector) (out []pod) {
	for _, p := range s.pods {
		if sel.Matches(labels.Set(p.tmpl.Labels)) {
			out = append(out, p)
		}
	}
	return out
}

func (s *set) has(who, what string, keys ...string) error {
	have, ok := s.keys[what]
	if !ok {
		return fmt.Errorf("%s uses %s, which does not exist", who, what)
	}
	for _, k := range keys {
		if !have[k] {
			return fmt.Errorf("%s uses key %q of %s, which does not exist", who, k, what)
		}
	}
	return nil
}

func keysOf(items []corev1.KeyToPath) (keys []string) {
	for _, i := range items {
		keys = append(keys, i.Key)
	}
	return keys
}

func selects(o object, s *metav1.LabelSelector, l map[string]string) error {
	if !selector(s).Matches(labels.Set(l)) {
		return fmt.Errorf("%s does not select its own pods", o)
	}
	return nil
}

func selector(s *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

func setOf(keys func(func(string) bool)) map[string]bool {
	m := map[string]bool{}
	for k := range keys {
		m[k] = true
	}
	return m
}
