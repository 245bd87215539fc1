package live

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"jwtbouncer/test/harness"
)

// Kubelet says of every pod what a kubelet on a real node would say: that its
// containers run and are ready, and that a Job's have succeeded. It starts nothing.
type Kubelet struct {
	cluster *Cluster

	mu   sync.Mutex
	hold map[string]bool // values of the label app.kubernetes.io/component
	next int
}

type pod struct {
	Metadata struct {
		Name, Namespace   string
		Labels            map[string]string
		DeletionTimestamp *time.Time
		OwnerReferences   []struct{ Kind string }
	}
	Spec struct {
		Containers []struct{ Name, Image string }
	}
	Status struct{ Phase, PodIP string }
}

// StartKubelet starts a Kubelet that ends with the test. Pods get addresses from
// 10.244.0.0/16.
func (c *Cluster) StartKubelet(t testing.TB) *Kubelet {
	t.Helper()
	k := &Kubelet{cluster: c, hold: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = harness.Poll(ctx, 200*time.Millisecond, func(ctx context.Context) error {
			if err := k.sync(ctx); err != nil {
				return err
			}
			return errAgain
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return k
}

var errAgain = fmt.Errorf("again")

// Hold keeps the pods of a component (app.kubernetes.io/component) from running, or
// no longer.
func (k *Kubelet) Hold(component string, hold bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hold[component] = hold
}

func (k *Kubelet) sync(ctx context.Context) error {
	var pods struct{ Items []pod }
	if err := k.cluster.get(ctx, "/api/v1/pods", &pods); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range pods.Items {
		if p.Status.Phase != "Pending" || p.Metadata.DeletionTimestamp != nil || k.hold[p.Metadata.Labels["app.kubernetes.io/component"]] {
			continue
		}
		k.next++
		// The pod may have been deleted meanwhile.
		_ = k.cluster.setRunning(ctx, p, fmt.Sprintf("10.244.%d.%d", k.next/250, 1+k.next%250))
	}
	return nil
}

// RunPod says of the first pod that a selector finds that it runs, with an address
// (see AddAddress).
func (c *Cluster) RunPod(t testing.TB, namespace, selector, ip string) {
	t.Helper()
	harness.Eventually(t, patience, "there is a pod "+selector, func(ctx context.Context) error {
		var pods struct{ Items []pod }
		if err := c.get(ctx, "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+url.QueryEscape(selector), &pods); err != nil {
			return err
		}
		if len(pods.Items) == 0 {
			return errAgain
		}
		return c.setRunning(ctx, pods.Items[0], ip)
	})
}

func (c *Cluster) setRunning(ctx context.Context, p pod, ip string) error {
	status, err := json.Marshal(map[string]any{"status": p.running(ip)})
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPatch, "/api/v1/namespaces/"+p.Metadata.Namespace+"/pods/"+p.Metadata.Name+"/status", string(status), nil)
}

func (p pod) running(ip string) map[string]any {
	phase, ready := "Running", "True"
	for _, o := range p.Metadata.OwnerReferences {
		if o.Kind == "Job" {
			phase, ready = "Succeeded", "False"
		}
	}
	now := time.Now().UTC().Format(time.RFC3339)
	var conditions, containers []map[string]any
	for _, name := range []string{"Initialized", "ContainersReady", "Ready"} {
		conditions = append(conditions, map[string]any{"type": name, "status": ready, "lastTransitionTime": now})
	}
	for _, c := range p.Spec.Containers {
		state := map[string]any{"running": map[string]any{"startedAt": now}}
		if phase == "Succeeded" {
			state = map[string]any{"terminated": map[string]any{"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
		}
		containers = append(containers, map[string]any{"name": c.Name, "image": c.Image, "imageID": c.Image, "restartCount": 0,
			"ready": ready == "True", "started": ready == "True", "state": state})
	}
	return map[string]any{"phase": phase, "podIP": ip, "podIPs": []map[string]string{{"ip": ip}}, "startTime": now,
		"conditions": conditions, "containerStatuses": containers}
}
