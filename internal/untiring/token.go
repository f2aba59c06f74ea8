package untiring

import (
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
)

// WithFreshToken returns the configuration with its token read from its file again
// as soon as the server refuses it, if it has one. After an outage that was longer
// than the token's life client-go would show the old one for up to 50 s after the
// new one is there.
func WithFreshToken(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	if cfg.BearerTokenFile == "" {
		return cfg
	}
	source := transport.NewCachedFileTokenSource(cfg.BearerTokenFile)
	cfg.BearerToken, cfg.BearerTokenFile = "", ""
	cfg.Wrap(transport.ResettableTokenSourceWrapTransport(source))
	return cfg
}
