# An image with the binary and nothing to log in to: no shell, no package manager, no root.
#   docker build -t tidewire .
#   docker run -p 8080:8080 -v tidewire:/var/lib/tidewire -v ./tidewire.toml:/etc/tidewire/tidewire.toml:ro tidewire
# The configuration must say who may come (`auth`), or Tidewire refuses to listen beyond the container. Whether it is
# ready: GET /readyz. `docker stop -t 40` lets it drain (limits.drain_timeout_ms).

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --locked --release --package tidewire \
    && strip --strip-debug target/release/tidewire \
    && mkdir /empty

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /source/target/release/tidewire /usr/bin/tidewire
COPY --from=build /source/deploy/tidewire.toml /etc/tidewire/tidewire.toml
COPY --from=build --chown=65532:65532 --chmod=0700 /empty /var/lib/tidewire
# Over the file: within a container, this machine is nobody.
ENV TIDEWIRE_LISTEN=0.0.0.0:8080
USER 65532:65532
WORKDIR /var/lib/tidewire
VOLUME /var/lib/tidewire
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tidewire"]
CMD ["serve", "--config", "/etc/tidewire/tidewire.toml"]
