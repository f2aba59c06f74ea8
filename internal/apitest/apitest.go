// Package apitest gives tests a real API server, and ways to it.
package apitest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// Start starts etcd and kube-apiserver on the loopback interface and stops them
// when the test ends. The programs are found by KUBEBUILDER_ASSETS.
func Start(t testing.TB) *rest.Config {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	return start(t, &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join(filepath.Dir(here), "../../config/crd")},
		ErrorIfCRDPathMissing: true,
	})
}

// StartBare does the same without Godwit's CRDs.
func StartBare(t testing.TB) *rest.Config {
	t.Helper()
	return start(t, &envtest.Environment{})
}

func start(t testing.TB, env *envtest.Environment) *rest.Config {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Fatal("this test needs etcd and kube-apiserver: run `make test-unit`, or set KUBEBUILDER_ASSETS to the folder that holds them")
	}
	cfg, err := env.Start()
	if err != nil {
		t.Fatalf("start etcd and kube-apiserver: %v", err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stop etcd and kube-apiserver: %v", err)
		}
	})
	return cfg
}

// Kubeconfig writes a file by which kubectl and Helm reach the server.
func Kubeconfig(t testing.TB, cfg *rest.Config) string {
	t.Helper()
	kc := clientcmdapi.NewConfig()
	kc.Clusters["test"] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	kc.AuthInfos["test"] = &clientcmdapi.AuthInfo{ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}
	kc.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	kc.CurrentContext = "test"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*kc, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// Scheme knows the kinds that Godwit uses.
func Scheme(t testing.TB) *kruntime.Scheme {
	t.Helper()
	s := kruntime.NewScheme()
	for _, add := range []func(*kruntime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Client returns a client of the server for the kinds that Godwit uses.
func Client(t testing.TB, cfg *rest.Config) client.WithWatch {
	t.Helper()
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: Scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
