// The `admin` block, and what it means for `drain_delay`.

extension Builder {
    /// Where the process can be watched; nil if nowhere, or if the block has no address that can be used.
    mutating func admin(in top: Scope) -> Admin? {
        guard let entry = top.entries(named: "admin").first else {
            if !top.has("admin"), let unused = top.entries(named: "drain_delay").first {
                diagnostics.warning(
                    at: unused.place, "drain_delay has no use without admin: nobody could read that the end is near")
            }
            return nil
        }
        let scope = scope(entry.block, .admin)
        if !scope.has("bind") { diagnostics.error(at: entry.place, "the admin block has no bind") }
        let binds = scope.entries(named: "bind").compactMap { bind($0) }
        let allowed = scope.entries(named: "allow").flatMap { entry in
            entry.arguments.words.compactMap { entry.arguments.value(of: $0, Value.network) }
        }
        let hosts = scope.entries(named: "host").flatMap { entry in
            entry.arguments.words.compactMap { entry.arguments.value(of: $0, Value.adminHost) }
        }
        return binds.isEmpty ? nil : Admin(binds: binds, allowedNetworks: allowed, allowedHosts: hosts)
    }
}
