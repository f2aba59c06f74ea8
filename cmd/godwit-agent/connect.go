package main

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/godwit-net/godwit/internal/untiring"
	"github.com/godwit-net/godwit/internal/version"
)

// restConfig says how to reach the API server: as a kubeconfig file says, or,
// without one, the service account of the pod.
func restConfig(kubeconfig string) (*rest.Config, error) {
	var (
		c   *rest.Config
		err error
	)
	if kubeconfig == "" {
		c, err = rest.InClusterConfig()
	} else {
		c, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	c.UserAgent = "godwit-agent/" + version.Version
	return untiring.Config(c), nil
}
