package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Forget makes the API server and etcd forget all that was before now, as in time
// they do by themselves: etcd is compacted, and the server's cache of events begins
// anew with it. Whoever watches from before is told that that is too long ago.
func (c *ControlPlane) Forget(ctx context.Context) error {
	var status struct {
		Header struct {
			Revision string `json:"revision"`
		} `json:"header"`
	}
	if err := c.etcd(ctx, "/v3/maintenance/status", struct{}{}, &status); err != nil {
		return err
	}
	request := map[string]any{"revision": status.Header.Revision, "physical": true}
	if err := c.etcd(ctx, "/v3/kv/compaction", request, &struct{}{}); err != nil {
		return err
	}
	if err := c.Group.Kill(ctx, ServerProcess); err != nil {
		return err
	}
	return c.StartServer(ctx)
}

// etcd calls a method of etcd's by JSON.
func (c *ControlPlane) etcd(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, etcdURL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}, Timeout: 30 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("etcd %s: %w", path, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd %s: %s", path, res.Status)
	}
	return json.NewDecoder(res.Body).Decode(out)
}
