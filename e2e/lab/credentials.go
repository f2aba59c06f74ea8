package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
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

// agentKubeconfig and controllerKubeconfig are by which the programs reach the API
// server.
func (l *Lab) agentKubeconfig(node string) string {
	return filepath.Join(l.NodeDir(node), "kubeconfig")
}

func (l *Lab) controllerKubeconfig(process string) string { return l.path(process, "kubeconfig") }

// Redirect starts the controller and all agents anew, with another address by which
// they reach the API server.
func (l *Lab) Redirect(ctx context.Context, url string) error {
	if err := l.Group.Stop(ctx, ControllerProcess); err != nil {
		return err
	}
	if err := pointAt(l.controllerKubeconfig(ControllerProcess), url); err != nil {
		return err
	}
	if err := l.StartController(ctx); err != nil {
		return err
	}
	for _, n := range l.Top.Nodes {
		if err := l.Group.Stop(ctx, AgentProcess(n.Name)); err != nil {
			return err
		}
		if err := pointAt(l.agentKubeconfig(n.Name), url); err != nil {
			return err
		}
		if err := l.StartAgent(ctx, n.Name); err != nil {
			return err
		}
	}
	return nil
}

// pointAt makes a kubeconfig lead to another address.
func pointAt(kubeconfig, url string) error {
	k, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return err
	}
	for _, c := range k.Clusters {
		c.Server = url
	}
	return clientcmd.WriteToFile(*k, kubeconfig)
}

// IssueToken gives a node's agent a new token, as kubelets do from time to time: by
// a file. It is good for so long.
func (l *Lab) IssueToken(node string, life time.Duration) error {
	file := filepath.Join(l.NodeDir(node), "token")
	k, err := clientcmd.LoadFromFile(l.agentKubeconfig(node))
	if err != nil {
		return err
	}
	for _, auth := range k.AuthInfos {
		old := auth.Token
		if old == "" {
			raw, err := os.ReadFile(auth.TokenFile)
			if err != nil {
				return err
			}
			old = string(raw)
		}
		token, err := l.CP.Reissue(old, life)
		if err != nil {
			return err
		}
		// At once, so that nobody reads half of it.
		if err := errors.Join(os.WriteFile(file+".new", []byte(token), 0o600), os.Rename(file+".new", file)); err != nil { // #nosec G703 -- the lab's own file
			return err
		}
		auth.Token, auth.TokenFile = "", file
	}
	return clientcmd.WriteToFile(*k, l.agentKubeconfig(node))
}
