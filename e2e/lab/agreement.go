package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/pods"
)

// ReportPods makes the API's pods those of the lab, as kubelets would: it creates
// those that are attached, with their addresses, and removes those that are not.
func (l *Lab) ReportPods(ctx context.Context) error {
	api, err := l.API()
	if err != nil {
		return err
	}
	var have corev1.PodList
	if err := api.List(ctx, &have); err != nil {
		return err
	}
	want := map[string]pods.Pod{}
	for _, p := range l.Pods() {
		want[p.Name] = p
	}
	var errs []error
	for i := range have.Items {
		p := &have.Items[i]
		if w, ok := want[p.Name]; ok && slices.Equal(addressesOf(p), w.Addresses) {
			delete(want, p.Name)
			continue
		}
		err := api.Delete(ctx, p, client.GracePeriodSeconds(0))
		errs = append(errs, client.IgnoreNotFound(err))
	}
	for _, p := range want {
		errs = append(errs, reportPod(ctx, api, p))
	}
	return errors.Join(errs...)
}

func addressesOf(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func reportPod(ctx context.Context, api client.Client, p pods.Pod) error {
	node, _, _ := strings.Cut(p.Name, "-")
	o := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{Name: "lab", Image: "lab"}},
		},
	}
	if err := api.Create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("report pod %s: %w", p.Name, err)
	}
	o.Status.Phase = corev1.PodRunning
	for _, a := range p.Addresses {
		o.Status.PodIPs = append(o.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	o.Status.PodIP = o.Status.PodIPs[0].IP
	if err := api.Status().Update(ctx, o); err != nil {
		return fmt.Errorf("report pod %s: %w", p.Name, err)
	}
	return nil
}

// CheckIPAM returns what godwitctl ipam check prints; arguments may be added. The
// error tells that something does not agree, or that it could not be found out.
func (l *Lab) CheckIPAM(ctx context.Context, more ...string) (string, error) {
	path, err := l.Program("godwitctl")
	if err != nil {
		return "", err
	}
	return namespace.Run(ctx, l.CP.Netns, append([]string{path, "ipam", "check", "--kubeconfig", l.Kubeconfig()}, more...)...)
}
