// What the single-valued directives say, while blocks are walked from the outside in. A block copies its parent's
// settings and changes what it names: that is all of inheritance. The defaults are the table's own texts.

import HTTPSemantics

/// The settings in force in a block.
struct Settings: Sendable {
    // The process.
    var workers: Int?
    var accessLog = AccessLog(destination: nil, format: .combined)
    var errorLog = ErrorLog(destination: .standardError, level: .info, format: .text)
    var shutdownGraceMilliseconds = 0
    var drainDelayMilliseconds = 0
    var resolver = ResolverSource.system
    var connectionsMax: Int?
    var relayBufferBytes = 0
    var bufferMemory = BufferMemory.automatic
    // The client's side.
    var downstreamTimers = DownstreamTimers()
    var limits = RequestLimits(headBytesMax: 0, fieldsMax: 0, targetBytesMax: 0)
    var trustedProxies = TrustedProxies(networks: [], includesUnixPeers: false)
    var via: String?
    var http2 = HTTP2Policy.tls
    // The exchange.
    var interim = InterimPolicy.forward
    var upgrade = UpgradePolicy.any
    var traceparent = TraceparentPolicy.pass
    var onClientClose = ClientClosePolicy.abort
    var contentBytesMax: Int?
    var errorFormat = ErrorFormat.text
    /// The upstream's side: a route takes it from its upstream, all else from the listener.
    var upstream = UpstreamSettings()

    private init() {}

    /// The defaults, as the table of directives writes them.
    static let defaults: Settings = {
        var settings = Settings()
        for directive in Directive.all {
            guard let text = directive.defaultText, let read = directive.read else { continue }
            let diagnostics = Diagnostics()
            let loader = Loader(environment: [:], files: NoConfigurationFiles(), diagnostics: diagnostics)
            let line = Array("\(directive.name) \(text);".utf8)
            let statements = loader.statements(of: line, path: "default")
            precondition(statements.count == 1, "the default of \(directive.name) is not a directive")
            let arguments = Arguments(statements[0], of: directive, diagnostics: diagnostics, folder: "")
            precondition(arguments.areWellFormed(), "the default of \(directive.name) is not well formed")
            read(arguments, &settings)
            precondition(!diagnostics.hasErrors, "the default of \(directive.name) is not valid")
        }
        return settings
    }()
}

/// Settings of the upstream's side.
struct UpstreamSettings: Sendable {
    var timers = UpstreamTimers()
    var responseHeadBytesMax = 0
    var retriesMax = 0
    var queueTimeoutMilliseconds = 0
    var balance = Balance.roundRobin
    var keepalive = Keepalive(connectionsMax: 0)
    var protocolVersion = UpstreamProtocol.http1
}
