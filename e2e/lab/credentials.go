package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/godwit-net/godwit/e2e/controlplane"
)

// writeCredentials writes the kubeconfig of one of Godwit's programs: its
// service account's where the project's manifests make one, else an
// administrator's. Of a program on a node the token is bound to a pod there, as
// kubelet's are; an empty node is none.
func (l *Lab) writeCredentials(ctx context.Context, file, account, node string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return err // it has them from before
	}
	api, err := l.API()
	if err != nil {
		return err
	}
	cred := controlplane.Credentials{User: account}
	var sa corev1.ServiceAccount
	switch err := api.Get(ctx, client.ObjectKey{Namespace: SystemNamespace, Name: account}, &sa); {
	case apierrors.IsNotFound(err):
		cred.Groups = []string{controlplane.AdminGroup}
	case err != nil:
		return err
	default:
		var pod *authenticationv1.BoundObjectReference
		if node != "" {
			if pod, err = standInPod(ctx, api, account, node); err != nil {
				return err
			}
		}
		if cred.Token, err = controlplane.Token(ctx, api, &sa, pod); err != nil {
			return err
		}
	}
	return l.CP.WriteKubeconfig(file, l.CP.URL(), cred)
}

// standInPod makes the pod that a program would be in, for its token. Nobody runs
// it: the lab has no kubelets.
func standInPod(ctx context.Context, api client.Client, account, node string) (*authenticationv1.BoundObjectReference, error) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: SystemNamespace, Name: account + "-" + node},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: account, HostNetwork: true,
			Containers: []corev1.Container{{Name: "stand-in", Image: account}},
		},
	}
	err := api.Create(ctx, pod)
	if apierrors.IsAlreadyExists(err) {
		err = api.Get(ctx, client.ObjectKeyFromObject(pod), pod)
	}
	if err != nil {
		return nil, fmt.Errorf("pod of %s on %s: %w", account, node, err)
	}
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}, nil
}
