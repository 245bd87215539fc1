package k8s

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	egv1alpha1 "github.com/envoyproxy/gateway/api/v1alpha1"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	istionetworking "istio.io/api/networking/v1alpha3"
	istiosecurity "istio.io/api/security/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
	"sigs.k8s.io/yaml"
)

// decoders are the real types, by apiVersion and kind. A kind that is not listed
// fails the test, so that every object is checked.
var decoders = map[string]func(object) (any, error){
	"v1 Namespace":                                        typed[corev1.Namespace],
	"v1 ServiceAccount":                                   typed[corev1.ServiceAccount],
	"v1 Service":                                          typed[corev1.Service],
	"v1 ConfigMap":                                        typed[corev1.ConfigMap],
	"v1 Secret":                                           typed[corev1.Secret],
	"apps/v1 Deployment":                                  typed[appsv1.Deployment],
	"apps/v1 StatefulSet":                                 typed[appsv1.StatefulSet],
	"batch/v1 Job":                                        typed[batchv1.Job],
	"autoscaling/v2 HorizontalPodAutoscaler":              typed[autoscalingv2.HorizontalPodAutoscaler],
	"policy/v1 PodDisruptionBudget":                       typed[policyv1.PodDisruptionBudget],
	"networking.k8s.io/v1 NetworkPolicy":                  typed[networkingv1.NetworkPolicy],
	"monitoring.coreos.com/v1 PodMonitor":                 typed[monitoringv1.PodMonitor],
	"monitoring.coreos.com/v1 PrometheusRule":             typed[monitoringv1.PrometheusRule],
	"gateway.networking.k8s.io/v1 GatewayClass":           typed[gatewayv1.GatewayClass],
	"gateway.networking.k8s.io/v1 Gateway":                typed[gatewayv1.Gateway],
	"gateway.networking.k8s.io/v1 HTTPRoute":              typed[gatewayv1.HTTPRoute],
	"gateway.networking.k8s.io/v1beta1 ReferenceGrant":    typed[gatewayv1beta1.ReferenceGrant],
	"gateway.envoyproxy.io/v1alpha1 SecurityPolicy":       typed[egv1alpha1.SecurityPolicy],
	"gateway.envoyproxy.io/v1alpha1 ClientTrafficPolicy":  typed[egv1alpha1.ClientTrafficPolicy],
	"gateway.envoyproxy.io/v1alpha1 EnvoyProxy":           typed[egv1alpha1.EnvoyProxy],
	"gateway.envoyproxy.io/v1alpha1 EnvoyExtensionPolicy": typed[egv1alpha1.EnvoyExtensionPolicy],
	"networking.istio.io/v1alpha3 EnvoyFilter":            istio[istionetworking.EnvoyFilter],
	"security.istio.io/v1 AuthorizationPolicy":            istio[istiosecurity.AuthorizationPolicy],
	"security.istio.io/v1 PeerAuthentication":             istio[istiosecurity.PeerAuthentication],
	"networking.istio.io/v1 ServiceEntry":                 istio[istionetworking.ServiceEntry],
}

// schema checks a manifest against its type, its enumerations and its CRD.
func schema(o object) (any, error) {
	decode, ok := decoders[o.version+" "+o.kind]
	if !ok {
		return nil, fmt.Errorf("%s: no type is known for %s %s", o, o.version, o.kind)
	}
	if o.name == "" {
		return nil, fmt.Errorf("%s without a name", o.kind)
	}
	v, err := decode(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o, err)
	}
	var errs []error
	if _, istio := v.(proto.Message); !istio { // protojson checks enums itself
		walkEnums(o.String(), reflect.ValueOf(v), &errs)
	}
	if strings.Contains(strings.SplitN(o.version, "/", 2)[0], ".") && !strings.HasSuffix(o.version, "k8s.io/v1") || strings.HasPrefix(o.version, "gateway.") {
		errs = append(errs, crd(o))
	}
	return v, errors.Join(errs...)
}

func typed[T any](o object) (any, error) {
	v := new(T)
	return v, yaml.UnmarshalStrict(o.text, v)
}

// istio decodes with protojson, because Istio's own unmarshaler accepts unknown
// fields.
func istio[T any, P interface {
	*T
	proto.Message
}](o object) (any, error) {
	spec, err := json.Marshal(o.tree["spec"])
	if err != nil {
		return nil, err
	}
	v := P(new(T))
	return v, protojson.Unmarshal(spec, v)
}

// closed lists the values of string types that are enumerations; nil means that
// any value is accepted, or that it is checked elsewhere. Kubernetes' Go types
// accept any string, so a typo would otherwise surface only in a cluster.
var closed = map[reflect.Type][]string{
	reflect.TypeFor[corev1.PullPolicy]():                       {"Always", "IfNotPresent", "Never"},
	reflect.TypeFor[corev1.RestartPolicy]():                    {"Always", "OnFailure", "Never"},
	reflect.TypeFor[corev1.ContainerRestartPolicy]():           {"Always"},
	reflect.TypeFor[corev1.Protocol]():                         {"TCP", "UDP", "SCTP"},
	reflect.TypeFor[corev1.DNSPolicy]():                        {"ClusterFirst", "Default", "None"},
	reflect.TypeFor[corev1.TolerationOperator]():               {"Exists", "Equal"},
	reflect.TypeFor[corev1.TaintEffect]():                      {"NoSchedule", "PreferNoSchedule", "NoExecute"},
	reflect.TypeFor[corev1.StorageMedium]():                    {"Memory", "HugePages"},
	reflect.TypeFor[corev1.SeccompProfileType]():               {"RuntimeDefault", "Localhost"},
	reflect.TypeFor[corev1.Capability]():                       {"ALL"},
	reflect.TypeFor[corev1.ServiceType]():                      {"ClusterIP", "NodePort", "LoadBalancer"},
	reflect.TypeFor[corev1.PersistentVolumeAccessMode]():       {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"},
	reflect.TypeFor[corev1.UnsatisfiableConstraintAction]():    {"DoNotSchedule", "ScheduleAnyway"},
	reflect.TypeFor[corev1.ResourceName]():                     {"cpu", "memory", "storage", "ephemeral-storage"},
	reflect.TypeFor[corev1.SecretType]():                       {"Opaque"},
	reflect.TypeFor[corev1.URIScheme]():                        {"HTTP", "HTTPS"},
	reflect.TypeFor[networkingv1.PolicyType]():                 {"Ingress", "Egress"},
	reflect.TypeFor[policyv1.UnhealthyPodEvictionPolicyType](): {"IfHealthyBudget", "AlwaysAllow"},
	reflect.TypeFor[autoscalingv2.MetricSourceType]():          {"Resource", "Pods", "Object", "External", "ContainerResource"},
	reflect.TypeFor[autoscalingv2.MetricTargetType]():          {"Utilization", "Value", "AverageValue"},
	reflect.TypeFor[autoscalingv2.HPAScalingPolicyType]():      {"Pods", "Percent"},
	reflect.TypeFor[appsv1.DeploymentStrategyType]():           {"RollingUpdate", "Recreate"},
	reflect.TypeFor[resource.Format]():                         nil,
	reflect.TypeFor[monitoringv1.Duration]():                   nil,
	reflect.TypeFor[monitoringv1.NonEmptyDuration]():           nil,
}

// walkEnums checks every value of a named string type below v. It skips types of
// kinds with a CRD, which checks them.
func walkEnums(path string, v reflect.Value, errs *[]error) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			walkEnums(path, v.Elem(), errs)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				walkEnums(path+"."+f.Name, v.Field(i), errs)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			walkEnums(fmt.Sprintf("%s[%d]", path, i), v.Index(i), errs)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			walkEnums(path+"."+k.String(), k, errs)
			walkEnums(path+"."+k.String(), v.MapIndex(k), errs)
		}
	case reflect.String:
		t := v.Type()
		if v.Len() == 0 || t.PkgPath() == "" || strings.HasPrefix(t.PkgPath(), "sigs.k8s.io/gateway-api") || strings.HasPrefix(t.PkgPath(), "github.com/envoyproxy/gateway") {
			return
		}
		values, known := closed[t]
		if !known {
			*errs = append(*errs, fmt.Errorf("%s: type %s is not listed in closed", path, t))
		} else if values != nil && !slices.Contains(values, v.String()) {
			*errs = append(*errs, fmt.Errorf("%s: %q is none of %s", path, v, strings.Join(values, ", ")))
		}
	}
}

// crds returns the published schemas of other projects' kinds, from the modules
// that define them.
var crds = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	sources := map[string]string{
		"sigs.k8s.io/gateway-api":       "config/crd/standard/*.yaml",
		"github.com/envoyproxy/gateway": "charts/gateway-crds-helm/templates/generated/*.yaml",
		"istio.io/api":                  "kubernetes/customresourcedefinitions.gen.yaml",
	}
	found := map[string]*jsonschema.Schema{}
	for module, pattern := range sources {
		dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			return nil, fmt.Errorf("go list %s: %w", module, err)
		}
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), pattern))
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("%s has no %s", module, pattern)
		}
		for _, file := range files {
			if err := readCRDs(file, found); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return found, nil
})

func readCRDs(file string, into map[string]*jsonschema.Schema) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var lines [][]byte
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("{{")) { // skip Helm's conditions
			lines = append(lines, line)
		}
	}
	for doc := range strings.SplitSeq(string(bytes.Join(lines, nil)), "\n---") {
		var d struct {
			Kind string `json:"kind"`
			Spec struct {
				Group    string                `json:"group"`
				Names    struct{ Kind string } `json:"names"`
				Versions []struct {
					Name   string `json:"name"`
					Schema struct {
						OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
					} `json:"schema"`
				} `json:"versions"`
			} `json:"spec"`
		}
		if err := yaml.Unmarshal([]byte(doc), &d); err != nil || d.Kind != "CustomResourceDefinition" {
			continue
		}
		for _, v := range d.Spec.Versions {
			name := d.Spec.Group + "/" + v.Name + " " + d.Spec.Names.Kind
			switch d.Spec.Names.Kind {
			case "GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant", "SecurityPolicy", "ClientTrafficPolicy", "EnvoyProxy", "EnvoyExtensionPolicy", "EnvoyFilter", "AuthorizationPolicy", "PeerAuthentication", "ServiceEntry":
			default:
				continue
			}
			c := jsonschema.NewCompiler()
			c.UseRegexpEngine(nil)
			c.DefaultDraft(jsonschema.Draft4)
			if err := c.AddResource("urn:crd", v.Schema.OpenAPIV3Schema); err != nil {
				return err
			}
			s, err := c.Compile("urn:crd")
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			into[name] = s
		}
	}
	return nil
}

func crd(o object) error {
	if strings.HasPrefix(o.version, "monitoring.coreos.com/") {
		return nil // its module contains no CRD; types and promql check it
	}
	all, err := crds()
	if err != nil {
		return err
	}
	s, ok := all[o.version+" "+o.kind]
	if !ok {
		return fmt.Errorf("%s: no CRD of %s %s", o, o.version, o.kind)
	}
	js, err := yaml.YAMLToJSON(o.text)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(js))
	if err != nil {
		return err
	}
	if err := s.Validate(doc); err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	return nil
}
