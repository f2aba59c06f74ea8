package controlplane

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// leeway is for how long the API server takes a token that has run out: clocks
// differ.
const leeway = time.Minute

// Reissue returns a token of the API server's that is good for so long from now on.
// The server itself issues none of less than 10 minutes.
func (c *ControlPlane) Reissue(token string, life time.Duration) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("no token of a service account")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	end := time.Now().Add(life - leeway)
	begin := end.Add(-time.Hour)
	claims["iat"], claims["nbf"], claims["exp"] = begin.Unix(), begin.Unix(), end.Unix()
	if payload, err = json.Marshal(claims); err != nil {
		return "", err
	}
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := c.sign([]byte(signed))
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// sign signs as the API server signs tokens (ES256, RFC 7518, section 3.4).
func (c *ControlPlane) sign(data []byte) ([]byte, error) {
	raw, err := os.ReadFile(c.file("sa.key"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("the key is no PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}
