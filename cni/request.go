package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	cniapi "github.com/godwit-net/godwit/api/cni"
	"github.com/godwit-net/godwit/cni/wire"
	"github.com/godwit-net/godwit/ipam"
)

// The specification's versions that the server speaks, as the plugin lists them.
//
//nolint:gochecknoglobals // constants in all but form
var (
	versions = []string{"0.4.0", "1.0.0", "1.1.0"}
	// nameForm is what the specification lets network names and container ids look like.
	nameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
)

// maxIfName is how long the kernel lets an interface's name be, in bytes.
const maxIfName = 15

// config is the network configuration as far as Godwit reads it.
type config struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	// MTU of the container's interface instead of the one that the agent finds.
	MTU int `json:"mtu"`
	// AllowIPForwarding leaves net.ipv4.ip_forward in the container as it is.
	AllowIPForwarding bool            `json:"allowIPForwarding"`
	IPAM              json.RawMessage `json:"ipam"`
	DNS               types.DNS       `json:"dns"`
	PrevResult        json.RawMessage `json:"prevResult"`
	RuntimeConfig     json.RawMessage `json:"runtimeConfig"`

	ValidAttachments []validAttachment `json:"cni.dev/valid-attachments"`
}

type validAttachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// call is a request that makes sense.
type call struct {
	config
	owner ipam.Owner
	netns string
	args  string
	pod   Pod // of the args, once vetForAdd read them
}

// parseConfig reads the configuration and checks what every verb needs.
func parseConfig(text []byte) (config, error) {
	var c config
	if !json.Valid(text) {
		var any json.RawMessage
		return c, errorf(CodeDecode, fmt.Sprint(json.Unmarshal(text, &any)), "the network configuration is not JSON")
	}
	// The version goes first: what a member of another version means is not known.
	var v struct {
		CNIVersion *string `json:"cniVersion"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return c, errorf(CodeDecode, err.Error(), "the network configuration can't be read")
	}
	if v.CNIVersion == nil || *v.CNIVersion == "" {
		return c, errorf(CodeVersion, supported(), "the network configuration has no cniVersion")
	}
	if !slices.Contains(versions, *v.CNIVersion) {
		return c, errorf(CodeVersion, supported(), "CNI version %q is not supported", *v.CNIVersion)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, errorf(CodeDecode, err.Error(), "the network configuration can't be read")
	}
	if !nameForm.MatchString(c.Name) {
		return c, errorf(CodeConfig, "the \"name\" of a network begins with a letter or digit, followed by letters, digits, _, . and -", "%q is no network name", c.Name)
	}
	return c, nil
}

// vetForAdd checks what counts for ADD alone; DEL must not stumble over it.
func (c *call) vetForAdd() error {
	switch {
	case present(c.IPAM):
		return errorf(CodeUnsupported, "Godwit gives out addresses from its IPPools itself; remove \"ipam\" from the network configuration", "the network configuration has an \"ipam\" section")
	case present(c.PrevResult):
		return errorf(CodeConfig, "put it first in \"plugins\"; portmap, bandwidth, tuning and the like come after it", "godwit-cni is not the first plugin of the network")
	case c.MTU < 0 || c.MTU > 65535 || (c.MTU > 0 && c.MTU < 68):
		return errorf(CodeConfig, "an \"mtu\" is 68 to 65535, or left out", "%d is no MTU", c.MTU)
	}
	var err error
	if c.pod, err = parseArgs(c.args); err != nil {
		return err
	}
	c.pod.Annotations, err = parseAnnotations(c.RuntimeConfig)
	return err
}

// PodAnnotations is the capability by which runtimes hand on the annotations of a
// pod: containerd and CRI-O know it.
const PodAnnotations = "io.kubernetes.cri.pod-annotations"

// parseAnnotations reads the annotations of the pod out of what the runtime adds
// to the network configuration.
func parseAnnotations(runtimeConfig json.RawMessage) (map[string]string, error) {
	if !present(runtimeConfig) {
		return nil, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(runtimeConfig, &members); err != nil {
		return nil, errorf(CodeDecode, err.Error(), "\"runtimeConfig\" can't be read")
	}
	var annotations map[string]string
	if raw := members[PodAnnotations]; present(raw) {
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return nil, errorf(CodeDecode, err.Error(), "the pod's annotations in \"runtimeConfig\" can't be read")
		}
	}
	return annotations, nil
}

func supported() string { return "supported are " + strings.Join(versions, ", ") }

// present tells whether a member has a value other than null and {}.
func present(raw json.RawMessage) bool {
	s := strings.TrimSpace(string(raw))
	return s != "" && s != "null" && s != "{}"
}

// parseCall reads a request of ADD, DEL or CHECK.
func parseCall(r *cniapi.Request) (*call, error) {
	conf, err := parseConfig(r.GetConfig())
	if err != nil {
		return nil, err
	}
	c := &call{
		config: conf,
		owner:  ipam.Owner{ContainerID: r.GetContainerId(), Interface: r.GetIfName()},
		netns:  r.GetNetns(),
		args:   r.GetArgs(),
	}
	switch {
	case c.owner.ContainerID == "":
		return nil, errorf(CodeEnvironment, "", "CNI_CONTAINERID is not set")
	case !nameForm.MatchString(c.owner.ContainerID):
		return nil, errorf(CodeEnvironment, "it begins with a letter or digit, followed by letters, digits, _, . and -", "CNI_CONTAINERID %q is no container id", c.owner.ContainerID)
	case c.owner.Interface == "":
		return nil, errorf(CodeEnvironment, "", "CNI_IFNAME is not set")
	case len(c.owner.Interface) > maxIfName:
		return nil, errorf(CodeEnvironment, fmt.Sprintf("interface names have at most %d bytes", maxIfName), "CNI_IFNAME %q is too long", c.owner.Interface)
	case c.owner.Interface == "." || c.owner.Interface == ".." || c.owner.Interface == "lo" || !printable(c.owner.Interface) || strings.ContainsAny(c.owner.Interface, "/:%"):
		return nil, errorf(CodeEnvironment, "it has no blanks, control characters, /, : or %, and is none of ., .. and lo", "CNI_IFNAME %q is no interface name", c.owner.Interface)
	}
	// Whether the link can bear all this is known before anything is done.
	if err := c.identity(longestAddresses()).Valid(); err != nil {
		return nil, errorf(CodeEnvironment, err.Error(), "CNI_CONTAINERID or the network's name is too long")
	}
	return c, nil
}

func (c *call) identity(addresses []netip.Addr) wire.Identity {
	return wire.Identity{Network: c.Name, ContainerID: c.owner.ContainerID, Interface: c.owner.Interface, Addresses: addresses}
}

// longestAddresses are an address of each family of which none is longer as text.
func longestAddresses() []netip.Addr {
	var a [16]byte
	for i := range a {
		a[i] = 0xff
	}
	return []netip.Addr{netip.AddrFrom4([4]byte(a[:4])), netip.AddrFrom16(a)}
}

func printable(s string) bool {
	for _, r := range s {
		if r <= ' ' || r >= 0x7f {
			return false
		}
	}
	return true
}

// parseArgs reads the pod out of CNI_ARGS, "K=V;K=V". Arguments that Godwit
// does not know are for somebody else.
func parseArgs(args string) (Pod, error) {
	var p Pod
	if args == "" {
		return p, nil
	}
	for pair := range strings.SplitSeq(args, ";") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return Pod{}, errorf(CodeEnvironment, "it is a list of KEY=VALUE, separated by ;", "CNI_ARGS %q can't be read", args)
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			p.Namespace = value
		case "K8S_POD_NAME":
			p.Name = value
		case "K8S_POD_UID":
			p.UID = value
		}
	}
	return p, nil
}
