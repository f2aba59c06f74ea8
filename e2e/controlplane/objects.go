package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// tokenLife is how long a token is good for: longer than any lab is up.
const tokenLife = 30 * 24 * time.Hour

// Token returns a token of a service account, bound to an object unless that is
// nil.
func Token(ctx context.Context, api client.Client, account *corev1.ServiceAccount, bound *authenticationv1.BoundObjectReference) (string, error) {
	seconds := int64(tokenLife.Seconds())
	req := authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds, BoundObjectRef: bound}}
	if err := api.SubResource("token").Create(ctx, account, &req); err != nil {
		return "", fmt.Errorf("token of %s: %w", account.Name, err)
	}
	return req.Status.Token, nil
}

// ApplyFolder applies the manifests of a folder, by name, as an owner; a folder
// without any is an error.
func ApplyFolder(ctx context.Context, api client.Client, folder string, owner client.FieldOwner) error {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no manifests in %s: run this in the project's own folder", folder)
	}
	slices.Sort(files)
	for _, f := range files {
		if filepath.Base(f) == "kustomization.yaml" {
			continue
		}
		if err := applyFile(ctx, api, f, owner); err != nil {
			return fmt.Errorf("apply %s: %w", f, err)
		}
	}
	return nil
}

func applyFile(ctx context.Context, api client.Client, file string, owner client.FieldOwner) error {
	f, err := os.Open(file) // #nosec G304 -- the project's own manifests
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	dec := yaml.NewYAMLOrJSONDecoder(f, 4096)
	for {
		var u unstructured.Unstructured
		if err := dec.Decode(&u.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(u.Object) == 0 {
			continue
		}
		err := api.Apply(ctx, client.ApplyConfigurationFromUnstructured(&u), owner, client.ForceOwnership)
		if err != nil {
			return fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
}
