// The keys that session tickets are sealed with (RFC 5077 section 4; in TLS 1.3 the same by OpenSSL). A value: the
// control thread makes the next one and posts it to the workers, so a session resumes on any of them.

internal import COpenSSL

/// The current keys and those before them. What was sealed with the latter is still taken, and sealed anew.
package struct TicketKeys: Sendable {
    /// A key's name, its key for AES-256 and its key for HMAC-SHA-256.
    static let nameBytes = 16
    static let cipherKeyBytes = 32
    static let macKeyBytes = 32
    static let setBytes = nameBytes + cipherKeyBytes + macKeyBytes

    let current: [UInt8]
    let previous: [UInt8]

    private init(current: [UInt8], previous: [UInt8]) {
        self.current = current
        self.previous = previous
    }

    /// Fresh keys without any before them.
    package static func random() throws(TLSSetupError) -> TicketKeys {
        TicketKeys(current: try randomSet(), previous: [])
    }

    /// Fresh keys; the current ones become the previous.
    package func rotated() throws(TLSSetupError) -> TicketKeys {
        TicketKeys(current: try Self.randomSet(), previous: current)
    }

    private static func randomSet() throws(TLSSetupError) -> [UInt8] {
        OpenSSLLibrary.start()
        var set = [UInt8](repeating: 0, count: setBytes)
        guard RAND_priv_bytes(&set, Int32(setBytes)) == 1 else { throw .library(OpenSSLErrors.takeText()) }
        return set
    }
}

/// A worker's copy of the keys with the algorithms, which OpenSSL 3 is slow to look up.
struct TicketSealer {
    /// The current set and behind it the previous, zero if there is none.
    private let sets: UnsafeMutablePointer<UInt8>
    private let cipher: OpaquePointer
    private var hasPrevious = false

    init?() {
        guard let cipher = EVP_CIPHER_fetch(nil, "AES-256-CBC", nil) else { return nil }
        self.cipher = cipher
        sets = .allocate(capacity: 2 * TicketKeys.setBytes)
        sets.initialize(repeating: 0, count: 2 * TicketKeys.setBytes)
    }

    func destroy() {
        OPENSSL_cleanse(sets, 2 * TicketKeys.setBytes)
        sets.deallocate()
        EVP_CIPHER_free(cipher)
    }

    mutating func set(_ keys: TicketKeys) {
        for index in 0..<TicketKeys.setBytes {
            sets[index] = keys.current[index]
            sets[TicketKeys.setBytes + index] = keys.previous.isEmpty ? 0 : keys.previous[index]
        }
        hasPrevious = !keys.previous.isEmpty
    }

    /// Makes ready to seal with the current keys.
    func seal(
        _ name: UnsafeMutablePointer<UInt8>, _ vector: UnsafeMutablePointer<UInt8>, _ cipherContext: OpaquePointer,
        _ macContext: OpaquePointer
    ) -> Bool {
        guard RAND_bytes(vector, EVP_CIPHER_get_iv_length(cipher)) == 1 else { return false }
        name.update(from: sets, count: TicketKeys.nameBytes)
        return EVP_EncryptInit_ex2(cipherContext, cipher, sets + TicketKeys.nameBytes, vector, nil) == 1
            && setKey(of: macContext, from: sets)
    }

    /// What became of a ticket.
    enum Opening { case unknown, current, previous, failed }

    /// Makes ready to open with the keys of that name.
    func open(
        _ name: UnsafePointer<UInt8>, _ vector: UnsafePointer<UInt8>, _ cipherContext: OpaquePointer,
        _ macContext: OpaquePointer
    ) -> Opening {
        var set = sets
        var opening = Opening.current
        if !(0..<TicketKeys.nameBytes).allSatisfy({ set[$0] == name[$0] }) {
            set += TicketKeys.setBytes
            opening = .previous
            guard hasPrevious, (0..<TicketKeys.nameBytes).allSatisfy({ set[$0] == name[$0] }) else { return .unknown }
        }
        guard EVP_DecryptInit_ex2(cipherContext, cipher, set + TicketKeys.nameBytes, vector, nil) == 1,
            setKey(of: macContext, from: set)
        else { return .failed }
        return opening
    }

    private func setKey(of context: OpaquePointer, from set: UnsafeMutablePointer<UInt8>) -> Bool {
        let key = set + (TicketKeys.nameBytes + TicketKeys.cipherKeyBytes)
        return COpenSSL_EVP_MAC_CTX_set_hmac_sha256(context, key, TicketKeys.macKeyBytes) == 1
    }
}
