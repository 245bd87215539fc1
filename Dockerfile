# syntax=docker/dockerfile:1
# A static binary in an empty image, which has no shell, no package manager and no
# root user. All architectures are cross-compiled:
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=0.1.0 -t jwt-bouncer:0.1.0 .
# VERSION appears in `jwt-bouncer version`, in the log and in the metric
# jwt_bouncer_build_info.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=$VERSION" -o /out/jwt-bouncer .
# The two writable directories, for the embedded store and for the Unix socket.
RUN mkdir -p /out/var/lib/jwt-bouncer /out/run/jwt-bouncer

# The demo's issuer and upstream for docker-compose.yml, built with --target demo.
# They are not part of the product's image.
FROM build AS build-demo
ARG TARGETOS TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -o /out/demo ./test/demo

FROM scratch AS demo
COPY --from=build-demo /out/demo /demo
USER 65532:65532
ENTRYPOINT ["/demo"]

FROM scratch
LABEL org.opencontainers.image.title="jwt-bouncer" \
      org.opencontainers.image.description="Envoy external authorization that makes revoked JWTs stop working" \
      org.opencontainers.image.licenses="Apache-2.0"
# Certificate authorities for https URLs of issuers, and for TLS to Postgres and Redis.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /out/var/lib/jwt-bouncer /var/lib/jwt-bouncer
COPY --from=build --chown=65532:65532 /out/run/jwt-bouncer /run/jwt-bouncer
COPY --from=build /out/jwt-bouncer /jwt-bouncer
USER 65532:65532
EXPOSE 9191 9192
ENV JWT_BOUNCER_CONFIG=/etc/jwt-bouncer/jwt-bouncer.yaml
HEALTHCHECK --interval=5s --timeout=4s --start-period=10s CMD ["/jwt-bouncer", "health"]
ENTRYPOINT ["/jwt-bouncer"]
CMD ["serve"]
