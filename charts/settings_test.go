package charts_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// everything sets each value that there is to something that is not its default.
const everything = `
namespace: {name: net, create: false}
image: {repository: images.example.com/godwit, tag: v1.2.3, pullPolicy: Always}
imagePullSecrets: [{name: images}]
logLevel: debug
pools:
- {name: pods, cidr: 172.25.0.0/16, blockSize: 27, encapsulation: VXLANCrossSubnet, natOutgoing: true}
- name: six
  cidr: fd00:25::/48
  nodeSelector: {matchLabels: {rack: a}}
bgp: {asNumber: 64600, topology: Auto, listenPort: 1790}
network: {mtu: 8950, vxlan: {port: 4790}}
peers:
- {name: tor, peerAddress: 10.211.55.1, peerASN: 65001, importFilters: [all]}
filters:
- name: all
  rules: [{cidr: 192.168.0.0/16, action: Accept}]
passwordSecrets: [one, two]
apiServer: {host: 10.211.55.10, port: 443}
cni: {binDir: /usr/lib/cni, confDir: /etc/cni}
agent:
  metricsAddress: :9471
  healthPort: 9572
  maxUnavailable: 10%
  resources: {limits: {memory: 256Mi}}
  tolerations: [{key: gpu, operator: Exists}]
  nodeSelector: {pool: general}
  affinity: {nodeAffinity: {}}
  priorityClassName: high
  podAnnotations: {example.com/scrape: "true"}
  podLabels: {team: net}
  extraArgs: [--gobgp-socket=/run/godwit/gobgp.sock]
controller:
  replicas: 1
  metricsAddress: :9470
  healthPort: 9573
  blockReleaseDelay: 10m
  resources: {limits: {memory: 512Mi}}
  tolerations: [{operator: Exists}]
  nodeSelector: {pool: control}
  priorityClassName: higher
  podAnnotations: {example.com/scrape: "yes"}
  podLabels: {team: net}
  extraArgs: [--leader-elect=false]
`

func valuesFile(t *testing.T, values string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSettings sees each setting where it belongs.
func TestSettings(t *testing.T) {
	all := template(t, "-f", valuesFile(t, everything), "--namespace", "elsewhere")
	if _, is := all["Namespace /net"]; is {
		t.Error("the namespace is made, though it is said not to be")
	}
	for _, key := range []string{"ServiceAccount net/godwit-agent", "Role net/godwit-controller", "RoleBinding default/godwit-controller-events", "Role default/godwit-controller-events"} {
		if all[key] == nil {
			t.Errorf("there is no %s", key)
		}
	}
	agents, controllers := all["DaemonSet net/godwit-agent"], all["Deployment net/godwit-controller"]
	field := func(u *unstructured.Unstructured, want any, path ...string) {
		t.Helper()
		if u == nil {
			t.Fatal("there is no such object")
		}
		have, _, err := unstructured.NestedFieldNoCopy(u.Object, path...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s %s, %s (-want +have):\n%s", u.GetKind(), u.GetName(), strings.Join(path, "."), diff)
		}
	}
	type list = []any
	type object = map[string]any
	for _, u := range []*unstructured.Unstructured{agents, controllers} {
		field(u, list{object{"name": "images"}}, "spec", "template", "spec", "imagePullSecrets")
		field(u, "net", "spec", "template", "metadata", "labels", "team")
	}
	field(agents, "10%", "spec", "updateStrategy", "rollingUpdate", "maxUnavailable")
	field(agents, object{"example.com/scrape": "true"}, "spec", "template", "metadata", "annotations")
	field(agents, list{object{"key": "gpu", "operator": "Exists"}}, "spec", "template", "spec", "tolerations")
	field(agents, object{"pool": "general", "kubernetes.io/os": "linux"}, "spec", "template", "spec", "nodeSelector")
	field(agents, object{"nodeAffinity": object{}}, "spec", "template", "spec", "affinity")
	field(agents, "high", "spec", "template", "spec", "priorityClassName")
	field(controllers, float64(1), "spec", "replicas")
	field(controllers, object{"example.com/scrape": "yes"}, "spec", "template", "metadata", "annotations")
	field(controllers, list{object{"operator": "Exists"}}, "spec", "template", "spec", "tolerations")
	field(controllers, object{"pool": "control", "kubernetes.io/os": "linux"}, "spec", "template", "spec", "nodeSelector")
	field(controllers, "higher", "spec", "template", "spec", "priorityClassName")

	api := list{object{"name": "KUBERNETES_SERVICE_HOST", "value": "10.211.55.10"}, object{"name": "KUBERNETES_SERVICE_PORT", "value": "443"}}
	agent, controller := container(t, agents), container(t, controllers)
	for _, c := range []object{agent, controller} {
		if c["image"] != "images.example.com/godwit:v1.2.3" || c["imagePullPolicy"] != "Always" {
			t.Errorf("image %v, %v", c["image"], c["imagePullPolicy"])
		}
		env, _ := c["env"].(list)
		if diff := cmp.Diff(api, env[max(0, len(env)-2):]); diff != "" {
			t.Errorf("the way to the API server (-want +have):\n%s", diff)
		}
	}
	if diff := cmp.Diff(list{
		"--cni-plugins=/cni", "--sysctl-dir=/host/proc/sys/net", "--health-address=127.0.0.1:9572", "--log-level=debug",
		"--namespace=net", "--metrics-address=:9471", "--gobgp-socket=/run/godwit/gobgp.sock",
	}, agent["args"]); diff != "" {
		t.Errorf("arguments of the agent (-want +have):\n%s", diff)
	}
	if diff := cmp.Diff(list{
		"--health-address=127.0.0.1:9573", "--log-level=debug", "--namespace=net", "--metrics-address=:9470",
		"--block-release-delay=10m", "--leader-elect=false",
	}, controller["args"]); diff != "" {
		t.Errorf("arguments of the controller (-want +have):\n%s", diff)
	}
	for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		if port, _, _ := unstructured.NestedFieldNoCopy(agent, probe, "httpGet", "port"); port != float64(9572) {
			t.Errorf("%s of the agent asks port %v", probe, port)
		}
		if port, there, _ := unstructured.NestedFieldNoCopy(controller, probe, "httpGet", "port"); there && port != float64(9573) {
			t.Errorf("%s of the controller asks port %v", probe, port)
		}
	}
	if diff := cmp.Diff(object{"limits": object{"memory": "256Mi"}, "requests": object{"cpu": "50m", "memory": "64Mi"}}, agent["resources"]); diff != "" {
		t.Errorf("resources of the agent (-want +have):\n%s", diff)
	}
	var folders []string
	volumes, _, _ := unstructured.NestedSlice(agents.Object, "spec", "template", "spec", "volumes")
	for _, v := range volumes {
		path, _, _ := unstructured.NestedString(v.(object), "hostPath", "path")
		folders = append(folders, path)
	}
	if !slices.Contains(folders, "/usr/lib/cni") || !slices.Contains(folders, "/etc/cni") {
		t.Errorf("the folders of the agent are %v", folders)
	}

	rules, _, _ := unstructured.NestedSlice(all["Role net/godwit-bgp-passwords"].Object, "rules")
	if diff := cmp.Diff(list{"one", "two"}, rules[0].(object)["resourceNames"]); diff != "" {
		t.Errorf("Secrets of the agents (-want +have):\n%s", diff)
	}
	conditions, _, _ := unstructured.NestedSlice(all["ValidatingAdmissionPolicy /godwit-agent"].Object, "spec", "matchConditions")
	if e := conditions[0].(object)["expression"]; e != "request.userInfo.username == 'system:serviceaccount:net:godwit-agent'" {
		t.Errorf("the policy is for %s", e)
	}
	field(all["IPPool /pods"], object{
		"cidr": "172.25.0.0/16", "blockSize": float64(27), "encapsulation": "VXLANCrossSubnet", "natOutgoing": true,
	}, "spec")
	field(all["IPPool /pods"], "keep", "metadata", "annotations", "helm.sh/resource-policy")
	field(all["IPPool /six"], "fd00:25::/48", "spec", "cidr")
	field(all["BGPConfig /default"], object{"asNumber": float64(64600), "topology": "Auto", "listenPort": float64(1790)}, "spec")
	field(all["NetworkConfig /default"], object{"mtu": float64(8950), "vxlan": object{"port": float64(4790)}}, "spec")
	field(all["BGPPeer /tor"], float64(65001), "spec", "peerASN")
	field(all["BGPFilter /all"], list{object{"cidr": "192.168.0.0/16", "action": "Accept"}}, "spec", "rules")

	digest := "sha256:" + strings.Repeat("0", 64)
	byDigest := container(t, template(t, "--set", "image.digest="+digest)["DaemonSet godwit-system/godwit-agent"])
	if byDigest["image"] != "godwit-net/godwit@"+digest {
		t.Errorf("the image by digest is %v", byDigest["image"])
	}
}

func container(t *testing.T, u *unstructured.Unstructured) map[string]any {
	t.Helper()
	all, _ := podSpec(t, u)["containers"].([]any)
	if len(all) != 1 {
		t.Fatalf("%s has %d containers", u.GetName(), len(all))
	}
	return all[0].(map[string]any)
}

// TestRefusals has bad values refused before anything is installed, by a message
// that names them.
func TestRefusals(t *testing.T) {
	for _, c := range []struct{ set, says string }{
		{"agent.resource.limits.cpu=1", "'resource' not allowed"}, // misspelt
		{"bgp.asn=64600", "'asn' not allowed"},
		{"bgp.asNumber=0", "/bgp/asNumber"},
		{"bgp.asNumber=4294967295", "/bgp/asNumber"},
		{"bgp.asNumber=65535", "/bgp/asNumber"},
		{"bgp.asNumber=AS64600", "/bgp/asNumber"},
		{"bgp.topology=Star", "/bgp/topology"},
		{"network.mtu=100", "/network/mtu"},
		{"network.vxlan.vni=16777216", "/network/vxlan/vni"},
		{"pools[0].name=pods", "missing property 'cidr'"},
		{"pools[0].cidr=172.25.0.0/16", "missing property 'name'"},
		{"pools[0].name=pods,pools[0].cidr=172.25.0.0", "/pools/0/cidr"},
		{"pools[0].name=Pods,pools[0].cidr=172.25.0.0/16", "/pools/0/name"},
		{"pools[0].name=pods,pools[0].cidr=172.25.0.0/16,pools[0].encapsulation=GRE", "/pools/0/encapsulation"},
		{"peers[0].name=tor,peers[0].peerASN=65536000000", "/peers/0/peerASN"},
		{"passwordSecrets=null", "missing property 'passwordSecrets'"},
		{"passwordSecrets[0]=", "/passwordSecrets/0"},
		{"logLevel=verbose", "/logLevel"},
		{"image.tag=a:b", "/image/tag"},
		{"image.digest=sha256:12", "/image/digest"},
		{"image.pullPolicy=Sometimes", "/image/pullPolicy"},
		{"cni.confDir=etc/cni/net.d", "/cni/confDir"},
		{"apiServer.port=65536", "/apiServer/port"},
		{"agent.metricsAddress=9471", "/agent/metricsAddress"},
		{"agent.healthPort=0", "/agent/healthPort"},
		{"agent.maxUnavailable=0", "/agent/maxUnavailable"},
		{"agent.resources.limits.memory=lots", "/agent/resources/limits/memory"},
		{"agent.tolerations[0].operator=Any", "/agent/tolerations/0/operator"},
		{"agent.nodeSelector=linux", "/agent/nodeSelector"},
		{"agent.extraArgs[0]=debug", "/agent/extraArgs/0"},
		{"controller.replicas=0", "/controller/replicas"},
		{"controller.blockReleaseDelay=soon", "/controller/blockReleaseDelay"},
		{"uninstall=1", "/uninstall"},
	} {
		out, err := helm(t, "template", "godwit", chart, "--set", c.set)
		if err == nil {
			t.Errorf("--set %s is taken", c.set)
		} else if !strings.Contains(out, c.says) {
			t.Errorf("--set %s is refused without %q: %s", c.set, c.says, out)
		}
	}
}

// TestOldKubernetes has a Kubernetes that lacks what Godwit needs refused.
func TestOldKubernetes(t *testing.T) {
	if out, err := helm(t, "template", "godwit", chart, "--kube-version", "1.31.9"); err == nil || !strings.Contains(out, "needs 1.32 or newer") {
		t.Errorf("Kubernetes 1.31: %v: %s", err, out)
	}
	if _, err := helm(t, "template", "godwit", chart, "--kube-version", "v1.32.0-eks-1"); err != nil {
		t.Errorf("Kubernetes 1.32: %v", err)
	}
}
