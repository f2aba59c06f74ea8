package main

import (
	"fmt"
	"net/netip"
	"net/url"

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

// addressOf returns the address of the API server, or none where it is reached by
// a name.
func addressOf(c *rest.Config) netip.Addr {
	u, err := url.Parse(c.Host)
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(u.Hostname())
	return a
}
