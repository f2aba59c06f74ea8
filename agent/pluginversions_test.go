package agent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOfferedVersions holds what versions of the CNI specification the runtime is
// offered with plugins of all ages in the node's folder, and that it is offered
// others when a plugin is replaced.
func TestOfferedVersions(t *testing.T) {
	bin := t.TempDir()
	w := &worker{
		Agent:  &Agent{o: Options{CNIConfig: filepath.Join(t.TempDir(), "net.d", "10-godwit.conflist"), CNIBin: bin}},
		socket: "/run/godwit/cni.sock", versions: pluginVersions{log: slog.New(slog.DiscardHandler)},
	}
	// install puts a plugin in the folder as package managers do: as a new file.
	install := func(name, script string) {
		t.Helper()
		if err := writeFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	asked := filepath.Join(t.TempDir(), "asked")
	supports := func(versions ...string) string {
		list, err := json.Marshal(versions)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`[ "$CNI_COMMAND" = VERSION ] || exit 1
[ -z "$HOME$KUBERNETES_SERVICE_HOST" ] || exit 1
echo asked >>%s
echo '{"cniVersion":"0.4.0","supportedVersions":%s}'
`, asked, list)
	}
	install(ownPlugin, supports("0.4.0", oldCNI, newCNI))

	for _, tt := range []struct {
		name, portmap string
		offered       []string
	}{
		{"new", supports("0.4.0", oldCNI, newCNI), []string{oldCNI, newCNI}},
		{"old", supports("0.3.1", "0.4.0", oldCNI), []string{oldCNI}},
		{"new again", supports("0.4.0", oldCNI, newCNI), []string{oldCNI, newCNI}},
		{"one that says nothing", "exit 0", []string{oldCNI}},
		{"one that fails", supports(newCNI) + "exit 1", []string{oldCNI}},
		{"one that hangs", "exec sleep 600", []string{oldCNI}},
		{"one that can't be executed", "exec /nowhere/ld.so", []string{oldCNI}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			install("portmap", tt.portmap)
			if err := w.writeCNIConfig(t.Context()); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(w.o.CNIConfig)
			if err != nil {
				t.Fatal(err)
			}
			var have struct {
				CNIVersion  string           `json:"cniVersion"` // all that a libcni before 1.2 reads of these
				CNIVersions []string         `json:"cniVersions"`
				Name        string           `json:"name"`
				Plugins     []map[string]any `json:"plugins"`
			}
			if err := json.Unmarshal(raw, &have); err != nil {
				t.Fatal(err)
			}
			if have.CNIVersion != oldCNI || !slices.Equal(have.CNIVersions, tt.offered) {
				t.Errorf("offered are %s and %v, want %s and %v", have.CNIVersion, have.CNIVersions, oldCNI, tt.offered)
			}
			if have.Name != "godwit" || len(have.Plugins) != 2 || have.Plugins[0]["socket"] != w.socket || have.Plugins[1]["snat"] != true {
				t.Errorf("the configuration is %s", raw)
			}
		})
	}

	install("portmap", supports("0.4.0", oldCNI, newCNI))
	if err := os.Remove(asked); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := w.writeCNIConfig(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(asked); err != nil || string(got) != "asked\n" {
		t.Errorf("a plugin that stays was asked: %q (%v), want once", got, err)
	}

	before, err := os.ReadFile(w.o.CNIConfig)
	if err != nil {
		t.Fatal(err)
	}
	install("portmap", supports("0.3.1", "0.4.0"))
	err = w.writeCNIConfig(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the CNI plugin portmap in "+bin+" supports the versions 0.3.1, 0.4.0 ") || !strings.Contains(err.Error(), "replace it") {
		t.Errorf("of a plugin that is too old it is said: %v", err)
	}
	if after, err := os.ReadFile(w.o.CNIConfig); err != nil || string(after) != string(before) {
		t.Errorf("with a plugin that is too old the configuration is rewritten: %s (%v)", after, err)
	}

	if err := os.Remove(filepath.Join(bin, "portmap")); err != nil {
		t.Fatal(err)
	}
	if versions, err := w.versions.common(t.Context(), chain(w.socket), bin); err != nil || !slices.Equal(versions, []string{oldCNI}) {
		t.Errorf("without a plugin %v (%v) are offered, want %s alone", versions, err, oldCNI)
	}
}
