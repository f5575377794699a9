// swift-tools-version: 6.2
// The map of the house: a target imports only what is listed here, and imports point downwards only.
// docs/ARCHITECTURE.md tells what lives in each room.
import PackageDescription

/// Warnings are errors in CI (HEADFIRST_STRICT=1), where the toolchain is known; elsewhere a newer compiler's
/// new warning must not stop anybody from building.
let strict: [SwiftSetting] =
    Context.environment["HEADFIRST_STRICT"] == "1" ? [.treatAllWarnings(as: .error)] : []

let package = Package(
    name: "headfirst",
    products: [.executable(name: "headfirst", targets: ["headfirst"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", exact: "1.16.2"),
    ],
    targets: [
        // The command: run, check, explain, demo; exit codes.
        .executableTarget(
            name: "headfirst",
            dependencies: [
                "ProxyRuntime", "ProxyCore", "ProxyConfiguration", "HTTP1", "HTTPSemantics", "EventLoop", "DemoOrigin",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict),
        // The slow origin that `headfirst demo` puts behind the proxy. Imports nothing of the house.
        .target(name: "DemoOrigin", swiftSettings: strict),
        // Does: workers, listeners, connections, signals, resolver, logging.
        .target(
            name: "ProxyRuntime",
            dependencies: [
                "ProxyCore", "ProxyConfiguration", "HTTP1", "HTTP2", "HTTPSemantics", "TLS", "EventLoop", "Bytes",
                "CAres",
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict),
        // Decides: routing, exchange, pool, balancing, retry, error -> status. No I/O.
        .target(
            name: "ProxyCore", dependencies: ["ProxyConfiguration", "HTTPSemantics", "Bytes"], swiftSettings: strict),
        // Text -> validated, immutable model. Pure.
        .target(name: "ProxyConfiguration", dependencies: ["HTTPSemantics", "Bytes"], swiftSettings: strict),
        // Bytes <-> message events, both roles. No I/O.
        .target(name: "HTTP1", dependencies: ["HTTPSemantics", "Bytes"], swiftSettings: strict),
        // Bytes <-> message events of many streams, both roles, by nghttp2. No I/O.
        .target(name: "HTTP2", dependencies: ["HTTPSemantics", "Bytes", "CNghttp2"], swiftSettings: strict),
        // RFC 9110's words: fields, framing, hop-by-hop, Forwarded, Via. Pure.
        .target(name: "HTTPSemantics", dependencies: ["Bytes"], swiftSettings: strict),
        // Sockets, readiness, timers, wake-ups. The only I/O.
        .target(name: "EventLoop", dependencies: ["Bytes", "CLinux"], swiftSettings: strict),
        // Ciphertext <-> plaintext. No I/O but the reading of PEM files.
        .target(name: "TLS", dependencies: ["COpenSSL"], swiftSettings: strict),
        // Buffers, pools, slab.
        .target(name: "Bytes", dependencies: ["CVector"], swiftSettings: strict),

        // C shims: each is imported by exactly one Swift target.
        .target(name: "CLinux"),
        .target(name: "CVector"),
        .systemLibrary(name: "CAres", pkgConfig: "libcares", providers: [.apt(["libc-ares-dev"])]),
        .systemLibrary(name: "CNghttp2", pkgConfig: "libnghttp2", providers: [.apt(["libnghttp2-dev"])]),
        .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),

        .testTarget(
            name: "ProxyConfigurationTests", dependencies: ["TestSupport", "ProxyConfiguration", "HTTPSemantics"],
            swiftSettings: strict),
        .testTarget(
            name: "ResolverTests", dependencies: ["ProxyRuntime", "ProxyConfiguration", "HTTPSemantics"],
            swiftSettings: strict),
        .testTarget(
            name: "MetricsTests", dependencies: ["ProxyRuntime", "ProxyCore", "ProxyConfiguration", "HTTPSemantics"],
            swiftSettings: strict),
        .testTarget(
            name: "HTTP2Tests", dependencies: ["TestSupport", "HTTP2Support", "HTTP2", "HTTPSemantics", "Bytes"],
            swiftSettings: strict
        ),
        // One end of an HTTP/2 connection, for tests that speak to another.
        .target(
            name: "HTTP2Support", dependencies: ["HTTP2", "HTTPSemantics", "Bytes"], path: "Tests/HTTP2Support",
            swiftSettings: strict),
        .testTarget(name: "TLSTests", dependencies: ["TestSupport", "TLS"], swiftSettings: strict),
        .testTarget(name: "DemoTests", dependencies: ["DemoOrigin"], swiftSettings: strict),
        // What several test targets share.
        .target(name: "TestSupport", path: "Tests/TestSupport", swiftSettings: strict),
        // The real binary against scripted, misbehaving peers.
        .testTarget(
            name: "IntegrationTests", dependencies: ["headfirst", "TLS", "HTTP2", "HTTP2Support"], swiftSettings: strict
        ),
        // A worker against peers that end at every byte, driven turn by turn in one thread.
        .testTarget(
            name: "FaultSweepTests",
            dependencies: [
                "TestSupport", "HTTP2Support", "ProxyRuntime", "ProxyCore", "ProxyConfiguration", "HTTP1", "HTTP2",
                "HTTPSemantics", "TLS", "EventLoop", "Bytes", "CNghttp2",
            ],
            swiftSettings: strict),
        .testTarget(name: "BytesTests", dependencies: ["TestSupport", "Bytes"], swiftSettings: strict),
        .testTarget(
            name: "EventLoopTests", dependencies: ["TestSupport", "EventLoop", "Bytes", "CLinux"], swiftSettings: strict
        ),
        .testTarget(
            name: "HTTPSemanticsTests", dependencies: ["TestSupport", "HTTPSemantics", "Bytes"], swiftSettings: strict),
        .testTarget(
            name: "HTTP1Tests", dependencies: ["TestSupport", "HTTP1", "HTTPSemantics", "Bytes"], swiftSettings: strict),
        .testTarget(
            name: "ProxyCoreTests",
            dependencies: ["TestSupport", "ProxyCore", "ProxyConfiguration", "HTTP1", "HTTPSemantics", "Bytes"],
            swiftSettings: strict),
    ],
    swiftLanguageModes: [.v6]
)
