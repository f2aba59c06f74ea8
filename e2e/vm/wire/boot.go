package wire

// BootFile is where the guest finds its Boot, ModuleDir the kernel modules
// that it needs before it has a file system, in the order of their names. Both
// are in the file system in memory that it starts from.
const (
	BootFile  = "/boot.json"
	ModuleDir = "/modules"
)

// InitProgram is the name by which the kernel starts the vm program as the
// machine's first process. Its arguments are not ours alone: the kernel adds
// whatever it doesn't know of its own.
const InitProgram = "/init"

// RootTag names the share that holds the host's whole file system.
const RootTag = "root"

// LifePort is the port whose host, once gone, takes the machine along; session
// ports are named SessionPort and a number.
const (
	LifePort    = "godwit.life"
	SessionPort = "godwit.session."
)

// Boot is what the guest makes of the machine.
type Boot struct {
	Hostname string `json:"hostname"`
	// Modules is the host's folder with all the kernel's modules, and Release the
	// kernel's name for it.
	Modules string `json:"modules"`
	Release string `json:"release"`
	// Writable are shares to mount besides the root, where the guest may write.
	Writable []Share `json:"writable,omitempty"`
	// EndsWithHost makes the machine end with the host's hold on LifePort.
	EndsWithHost bool `json:"endsWithHost"`
}

// Share is a folder of the host; it has the same path inside.
type Share struct {
	Tag  string `json:"tag"`
	Path string `json:"path"`
}
