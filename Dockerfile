# For those who have a container engine; `make image` needs none and is what is
# released. Both put the same files at the same places.
FROM golang:1.26 AS build
ARG VERSION=unknown TARGETOS=linux TARGETARCH
WORKDIR /src
COPY . .
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH
RUN ldflags="-s -w -buildid= -X github.com/godwit-net/godwit/internal/version.Version=$VERSION" && \
    plugins=github.com/containernetworking/plugins/plugins && \
    mkdir -p /image/bin /image/cni && \
    go build -trimpath -buildvcs=false -ldflags "$ldflags" -o /image/bin/ ./cmd/godwit-agent ./cmd/godwit-controller ./cmd/godwitctl && \
    go build -trimpath -buildvcs=false -ldflags "$ldflags" -o /image/cni/ ./cmd/godwit-cni && \
    cd tools/image && \
    go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o /image/cni/ \
        $plugins/main/loopback $plugins/meta/portmap $plugins/meta/bandwidth

FROM scratch
ARG VERSION=unknown
LABEL org.opencontainers.image.title=Godwit \
      org.opencontainers.image.description="BGP routing for Kubernetes pods" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=$VERSION
COPY --from=build /image /
ENV PATH=/bin
ENTRYPOINT ["/bin/godwit-agent"]
