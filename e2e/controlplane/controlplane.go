// Package controlplane runs a real Kubernetes control plane for the lab: etcd
// and kube-apiserver, with certificates of its own, in one network namespace.
// There is no scheduler, no controller manager and no kubelet: Godwit needs
// none of them.
package controlplane

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/godwit-net/godwit/e2e/namespace"
	"github.com/godwit-net/godwit/e2e/patience"
	"github.com/godwit-net/godwit/e2e/process"
)

// AdminGroup is the group whose users may do everything.
const AdminGroup = "system:masters"

// readyTimeout bounds the start of each program. The API server takes some
// 5 s on an idle machine, several times that on a busy one.
const readyTimeout = 90 * time.Second

const (
	etcdURL = "http://127.0.0.1:2379" // the loopback of the namespace
	apiPort = 6443
)

// ControlPlane is an etcd and an API server.
type ControlPlane struct {
	Dir     string // certificates and etcd's data
	Netns   string
	Address netip.Addr // where the API server is reached; its family is that of Services too
	Etcd    string     // path of the program
	Server  string     // path of the program
	Group   *process.Group
	// Kubelets says that there are nodes with kubelets, and controllers: the API
	// server then is as one of a cluster's.
	Kubelets bool
	// Patience stretches the time that the programs have to start.
	Patience patience.Factor
}

// Names of the processes.
const (
	EtcdProcess   = "etcd"
	ServerProcess = "kube-apiserver"
)

func (c *ControlPlane) file(name string) string { return filepath.Join(c.Dir, name) }

// URL is the API server's address for those who are in the lab's fabric.
func (c *ControlPlane) URL() string {
	return "https://" + netip.AddrPortFrom(c.Address, apiPort).String()
}

// Start makes the certificates and starts both programs. It returns when the
// API server is ready.
func (c *ControlPlane) Start(ctx context.Context) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	if err := c.writePKI(); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	if err := c.StartEtcd(ctx); err != nil {
		return err
	}
	return c.StartServer(ctx)
}

// StartEtcd starts etcd and waits until it is healthy.
func (c *ControlPlane) StartEtcd(ctx context.Context) error {
	err := c.Group.Start(process.Spec{
		Name: EtcdProcess, Netns: c.Netns, Path: c.Etcd,
		Args: []string{
			"--name=lab", "--data-dir=" + c.file("etcd"),
			"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
			"--initial-cluster=lab=http://127.0.0.1:2380",
			"--unsafe-no-fsync", "--log-level=warn",
		},
	})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}, Timeout: 2 * time.Second}
	return c.waitReady(ctx, EtcdProcess, client, etcdURL+"/health")
}

// Snapshot copies etcd's data into a folder that is not there yet. Both programs
// are stopped for it, and started again.
func (c *ControlPlane) Snapshot(ctx context.Context, dir string) error {
	return c.offline(ctx, func() error { return os.CopyFS(dir, os.DirFS(c.file("etcd"))) })
}

// Restore puts a snapshot in the place of etcd's data: whatever happened since is
// forgotten, and revisions go on from there.
func (c *ControlPlane) Restore(ctx context.Context, dir string) error {
	return c.offline(ctx, func() error {
		if err := os.RemoveAll(c.file("etcd")); err != nil {
			return err
		}
		return os.CopyFS(c.file("etcd"), os.DirFS(dir))
	})
}

// offline does something while neither program runs.
func (c *ControlPlane) offline(ctx context.Context, do func() error) error {
	if err := errors.Join(c.Group.Kill(ctx, ServerProcess), c.Group.Kill(ctx, EtcdProcess)); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := c.StartEtcd(ctx); err != nil {
		return err
	}
	return c.StartServer(ctx)
}

// wildcard and services are all addresses and the range of Services, in the
// family of the API server's address.
func (c *ControlPlane) wildcard() string {
	if c.Address.Is6() {
		return "::"
	}
	return "0.0.0.0"
}

func (c *ControlPlane) services() string {
	if c.Address.Is6() {
		return "fd00:10:96::/112"
	}
	return "10.96.0.0/16"
}

// StartServer starts the API server and waits until it is ready.
func (c *ControlPlane) StartServer(ctx context.Context) error {
	err := c.Group.Start(process.Spec{
		Name: ServerProcess, Netns: c.Netns, Path: c.Server,
		Args: append([]string{
			"--etcd-servers=" + etcdURL,
			"--bind-address=" + c.wildcard(), "--advertise-address=" + c.Address.String(),
			fmt.Sprintf("--secure-port=%d", apiPort),
			"--service-cluster-ip-range=" + c.services(),
			"--client-ca-file=" + c.file("ca.crt"),
			"--tls-cert-file=" + c.file("server.crt"), "--tls-private-key-file=" + c.file("server.key"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + c.file("sa.pub"),
			"--service-account-signing-key-file=" + c.file("sa.key"),
			"--profiling=false",
		}, c.rights()...),
	})
	if err != nil {
		return err
	}
	cfg, err := c.Config("lab", AdminGroup)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return c.waitReady(ctx, ServerProcess, client, c.URL()+"/readyz")
}

// rights are the flags about who may do what.
func (c *ControlPlane) rights() []string {
	if !c.Kubelets {
		// Without the controller manager no namespace has a service account that pods
		// could be given.
		return []string{"--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"}
	}
	return []string{
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--kubelet-client-certificate=" + c.file("kubelet-client.crt"), "--kubelet-client-key=" + c.file("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
	}
}

// Dial connects from inside the control plane's namespace.
func (c *ControlPlane) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = namespace.Do(c.Netns, func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func (c *ControlPlane) waitReady(ctx context.Context, name string, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, c.Patience.Times(readyTimeout))
	defer cancel()
	for {
		err := get(ctx, client, url)
		if err == nil {
			return nil
		}
		if r, rerr := c.Group.Get(name); rerr != nil || !r.Alive() {
			return fmt.Errorf("%s ended: see %s", name, c.Group.Log(name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (%w): see %s", name, err, c.Group.Log(name))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

// Config returns a client configuration of a user for use by this process,
// which need not be in the lab's network.
func (c *ControlPlane) Config(user string, groups ...string) (*rest.Config, error) {
	ca, err := loadAuthority(c.file("ca.crt"), c.file("ca.key"))
	if err != nil {
		return nil, err
	}
	p, err := ca.client(user, groups...)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.URL(),
		TLSClientConfig: rest.TLSClientConfig{CAData: encodeCert(ca.cert.Raw), CertData: p.cert, KeyData: p.key},
		Dial:            c.Dial,
		QPS:             -1,
	}, nil
}

// Credentials are how a user of a kubeconfig shows who it is: a token or, when
// that is empty, a certificate of the lab's authority.
type Credentials struct {
	User   string
	Groups []string
	Token  string
}

// WriteKubeconfig writes a kubeconfig of a user. The server is the control
// plane's own address, or another by which it is reached.
func (c *ControlPlane) WriteKubeconfig(file, server string, cred Credentials) error {
	ca, err := loadAuthority(c.file("ca.crt"), c.file("ca.key"))
	if err != nil {
		return err
	}
	auth := &clientcmdapi.AuthInfo{Token: cred.Token}
	if cred.Token == "" {
		p, err := ca.client(cred.User, cred.Groups...)
		if err != nil {
			return err
		}
		auth.ClientCertificateData, auth.ClientKeyData = p.cert, p.key
	}
	k := clientcmdapi.NewConfig()
	k.Clusters["lab"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: encodeCert(ca.cert.Raw)}
	k.AuthInfos[cred.User] = auth
	k.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: cred.User}
	k.CurrentContext = "lab"
	if err := clientcmd.WriteToFile(*k, file); err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", cred.User, err)
	}
	return nil
}

func (c *ControlPlane) writePKI() error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	if err := ca.save(c.file("ca.crt"), c.file("ca.key")); err != nil {
		return err
	}
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	service := netip.MustParsePrefix(c.services()).Addr().Next() // of the API server itself
	server, err := ca.server([]netip.Addr{c.Address, local, service}, "localhost", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	toKubelets, err := ca.client("kube-apiserver", AdminGroup)
	if err != nil {
		return err
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	signerPEM, err := encodeKey(signer)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"server.crt": server.cert, "server.key": server.key, "sa.key": signerPEM,
		"kubelet-client.crt": toKubelets.cert, "kubelet-client.key": toKubelets.key,
		"sa.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
	} {
		if err := os.WriteFile(c.file(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
