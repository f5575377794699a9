// Which hosts a request to the admin listener may ask for. A page in a browser can have its own name lead to the loopback
// or to a private address a moment later (DNS rebinding); then the browser takes the admin listener for the page's own
// server, and lets the page read what it answers. Host still says the page's name, so a name is served only if it is known
// to be ours. An address cannot be led elsewhere: it need only be one of ours.

import EventLoop
import HTTPSemantics
import ProxyConfiguration

/// See the head of the file.
struct AdminHosts: Sendable {
    /// What is listened on.
    private let addresses: Set<IPAddress>
    /// Whether every address of this machine leads here.
    private let hasWildcard: Bool

    /// - Parameter bound: the addresses of the listening sockets; those of Unix sockets are no hosts.
    init(boundTo bound: [SocketAddress]) {
        let addresses = bound.filter { !$0.isUnix }.map { IPAddress(high: $0.ip.high, low: $0.ip.low) }
        self.addresses = Set(addresses)
        hasWildcard = addresses.contains(where: \.isUnspecified)
    }

    /// The host that the request in the scratch asks for; nil if it names none, which only HTTP/1.0 may and no browser does.
    static func asked(in head: Head) -> AdminHost? {
        guard !head.storage.pointee.facts.isDisjoint(with: [.host, .absoluteForm]) else { return nil }
        return AdminHost(head.text(head.hostOnly(head.storage.pointee.authority)))
    }

    /// Whether a request is for us.
    /// - Parameters:
    ///   - host: what it asks for.
    ///   - path: probes may come to an address that we do not know as ours, translated on the way.
    ///   - allowed: what the configuration adds.
    func serve(_ host: AdminHost?, path: String, _ allowed: [AdminHost]) -> Bool {
        guard let host else { return true }
        if allowed.contains(host) { return true }
        switch host {
        case .name(let name): return name == "localhost"
        case .address(let address):
            return hasWildcard || addresses.contains(address) || path == "/healthz" || path == "/readyz"
        }
    }
}
