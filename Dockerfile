# Built with the whole toolchain, run with the binary, c-ares, nghttp2, OpenSSL, what the C++ runtime needs, and the authorities
# that upstreams' certificates are verified against.
FROM swift:6.3-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends libc-ares-dev libnghttp2-dev libssl-dev \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The dependencies first: they are fetched again only when the manifest changes.
COPY Package.swift ./
RUN swift package resolve
COPY Sources Sources
# Not built here, but the manifest names them.
COPY Tests Tests
RUN swift build -c release --static-swift-stdlib --product headfirst \
    && install -D -s "$(swift build -c release --static-swift-stdlib --show-bin-path)/headfirst" /out/headfirst

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libc-ares2 libnghttp2-14 libssl3 libstdc++6 \
    && apt-get clean && rm -rf /var/lib/apt/lists/*
COPY docs/container/proxy.conf /etc/headfirst/proxy.conf
COPY --from=build /out/headfirst /usr/local/bin/headfirst
# No account is needed, only a number that is nobody's.
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
# Needs an admin block, which the configuration inside has; one that is mounted over it may have it elsewhere.
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s CMD ["headfirst", "health"]
ENTRYPOINT ["headfirst"]
CMD ["run"]
