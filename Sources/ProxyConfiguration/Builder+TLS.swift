// The `tls` blocks of listeners and upstreams.

import HTTPSemantics

extension Builder {
    /// The policies of a listener, the one for all hosts first.
    func serverTLS(in scope: Scope, listener name: String, _ entry: Entry) -> [ServerTLS] {
        let entries = scope.entries(named: "tls")
        let bindsTLS = scope.entries(named: "bind").contains { $0.arguments.has(flag: "tls") }
        var policies: [ServerTLS] = []
        var places: [String: Place] = [:]
        var defaultPlace: Place?
        for entry in entries {
            let hosts = hostNames(of: entry, &places)
            if hosts.isEmpty {
                if let first = defaultPlace {
                    let place = diagnostics.location(first).text
                    diagnostics.error(
                        at: entry.place, "a second tls without a name in this listener; first at \(place)")
                }
                defaultPlace = defaultPlace ?? entry.place
            }
            if let policy = serverPolicy(entry, hosts: hosts) {
                policies.insert(policy, at: hosts.isEmpty ? 0 : policies.count)
            }
        }
        if bindsTLS, !scope.has("tls") {
            diagnostics.error(
                at: entry.place, "the listener \(quoted(name)) binds tls and has no tls { ... } with a certificate")
        } else if bindsTLS, defaultPlace == nil, let first = entries.first {
            diagnostics.error(
                at: first.place,
                "a listener that binds tls needs a tls without a name, for clients that ask for no other")
        } else if !bindsTLS, let first = entries.first {
            diagnostics.warning(at: first.place, "no bind of this listener says tls: nothing uses this")
        }
        return policies
    }

    private func hostNames(of entry: Entry, _ places: inout [String: Place]) -> [String] {
        entry.arguments.words.compactMap { word in
            let name = entry.arguments.value(of: word) { text throws(Problem) -> String in
                let pattern = try Value.hostPattern(text)
                guard !pattern.hasPrefix("["), IPAddress(pattern) == nil else {
                    throw Problem("\(quoted(text)): clients ask for names, never for addresses (RFC 6066)")
                }
                return pattern
            }
            guard let name else { return nil }
            if let first = places[name] {
                let place = diagnostics.location(first).text
                diagnostics.error(at: word, "the host \(quoted(name)) has two tls blocks; first at \(place)")
                return nil
            }
            places[name] = word.place
            return name
        }
    }

    private func serverPolicy(_ entry: Entry, hosts: [String]) -> ServerTLS? {
        let scope = Scope(entry.block, in: .tls, diagnostics: diagnostics, folder: folder)
        let certificates = scope.entries(named: "certificate").compactMap { certificate($0) }
        if !scope.has("certificate") { diagnostics.error(at: entry.place, "this tls has no certificate") }
        let authority = scope.path(of: "client_ca", in: folder)
        let verification: ClientVerification? = scope.choice("client_verify")
        if let verification, verification != .off, !scope.has("client_ca"),
            let asked = scope.entries(named: "client_verify").first
        {
            diagnostics.error(
                at: asked.place, "client_verify needs a client_ca: whose certificates are good?")
        }
        if verification ?? .off == .off, let unused = scope.entries(named: "client_ca").first {
            diagnostics.warning(at: unused.place, "client_ca has no use without client_verify optional or required")
        }
        guard !certificates.isEmpty else { return nil }
        return ServerTLS(
            hosts: hosts, certificates: certificates, minimumVersion: scope.choice("min_version") ?? .tls12,
            ciphers: scope.text(of: "ciphers"), curves: scope.text(of: "curves"), clientAuthorityFile: authority,
            clientVerification: verification ?? .off, location: diagnostics.location(entry.place))
    }

    private func onlyCertificate(in scope: Scope) -> CertificateFiles? {
        let entries = scope.entries(named: "certificate")
        if let second = entries.dropFirst().first {
            diagnostics.error(at: second.place, "to an upstream one certificate is shown, not several")
        }
        return entries.first.flatMap { certificate($0) }
    }

    private func certificate(_ entry: Entry) -> CertificateFiles? {
        let arguments = entry.arguments
        let certificate = arguments.value(0) { text throws(Problem) in try Value.file(text, folder: folder) }
        let key = arguments.value(1) { text throws(Problem) in try Value.file(text, folder: folder) }
        guard let certificate, let key else { return nil }
        return CertificateFiles(certificate: certificate, key: key, location: diagnostics.location(entry.place))
    }

    /// How an upstream's servers are spoken to; nil is in clear.
    func upstreamTLS(in scope: Scope, servers: [Server]) -> UpstreamTLS? {
        guard let entry = scope.entries(named: "tls").first else { return nil }
        let inner = Scope(entry.block, in: .upstreamTLS, diagnostics: diagnostics, folder: folder)
        let verifies = inner.entries(named: "verify").first?.arguments.value { text throws(Problem) -> Bool in
            guard text == "on" || text == "off" else { throw Problem("expected on or off, not \(quoted(text))") }
            return text == "on"
        }
        let serverName = inner.entries(named: "server_name").first?.arguments.value { text throws(Problem) in
            guard Value.isHostName(text) || IPAddress(text) != nil else {
                throw Problem("\(quoted(text)) is neither the name of a host nor an address")
            }
            return text.lowercased()
        }
        let tls = UpstreamTLS(
            verifies: verifies ?? true, serverName: serverName, authorityFile: inner.path(of: "ca_file", in: folder),
            certificate: onlyCertificate(in: inner),
            minimumVersion: inner.choice("min_version") ?? .tls12, ciphers: inner.text(of: "ciphers"),
            curves: inner.text(of: "curves"), location: diagnostics.location(entry.place))
        if !tls.verifies, let unused = inner.entries(named: "ca_file").first {
            diagnostics.warning(at: unused.place, "ca_file has no use with verify off")
        }
        let hasUnnamedServer = servers.contains { if case .unix = $0.endpoint { true } else { false } }
        if tls.verifies, tls.serverName == nil, hasUnnamedServer {
            diagnostics.error(
                at: entry.place, "a server on a Unix socket has no name to verify; give this tls a server_name")
        }
        return tls
    }
}

extension Scope {
    fileprivate func choice<Choice: RawRepresentable & CaseIterable>(_ name: String) -> Choice?
    where Choice.RawValue == String {
        entries(named: name).first?.arguments.value { text throws(Problem) -> Choice in try Value.choice(text) }
    }

    fileprivate func text(of name: String) -> String? {
        entries(named: name).first.flatMap { entry in
            entry.arguments.value { text throws(Problem) in try Value.openSSLList(text) }
        }
    }

    fileprivate func path(of name: String, in folder: String) -> String? {
        entries(named: name).first?.arguments.value { text throws(Problem) in try Value.file(text, folder: folder) }
    }
}
