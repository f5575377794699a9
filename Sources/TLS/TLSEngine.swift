// What all TLS sessions of a worker share: one window over the ciphertext that is worked on now. OpenSSL reaches it by
// our own BIO, so there is no socket, no buffer and no allocation of ours for a session.
//
// Invariants: input is borrowed for the length of one call; output is empty before every call and belongs to the caller
// after it, who sends or copies it and clears it before the next call for any session. One thread.

internal import COpenSSL

/// The window that OpenSSL reads from and writes to.
struct TLSWindow {
    var input: UnsafePointer<UInt8>?
    var inputCount: Int
    var inputOffset: Int
    var output: UnsafeMutablePointer<UInt8>
    var outputCount: Int
    var outputCapacity: Int
}

/// A worker's half of TLS. A handle: copying it copies the reference. One thread.
package struct TLSEngine {
    /// Room for output that is kept; a call that needs more gets it and gives it back.
    private static var outputBytesKept: Int { 96 << 10 }

    let window: UnsafeMutablePointer<TLSWindow>

    /// An engine without sessions.
    package init() {
        window = .allocate(capacity: 1)
        window.initialize(
            to: TLSWindow(
                input: nil, inputCount: 0, inputOffset: 0,
                output: .allocate(capacity: Self.outputBytesKept), outputCount: 0,
                outputCapacity: Self.outputBytesKept))
    }

    /// Frees its memory; every session must have been destroyed.
    package func destroy() {
        window.pointee.output.deallocate()
        window.deallocate()
    }

    /// The ciphertext that the last call made. To be sent, or copied, before the next call for any session.
    package var output: UnsafeBufferPointer<UInt8> {
        UnsafeBufferPointer(start: window.pointee.output, count: window.pointee.outputCount)
    }

    /// Whether the last call made ciphertext.
    package var hasOutput: Bool { window.pointee.outputCount > 0 }

    /// The output was sent or copied.
    package func clearOutput() {
        window.pointee.outputCount = 0
        if window.pointee.outputCapacity > Self.outputBytesKept {
            window.pointee.output.deallocate()
            window.pointee.output = .allocate(capacity: Self.outputBytesKept)
            window.pointee.outputCapacity = Self.outputBytesKept
        }
    }
}

extension TLSWindow {
    mutating func takeInput(_ room: UnsafeMutableRawPointer, _ capacity: Int) -> Int {
        let count = min(capacity, inputCount - inputOffset)
        guard count > 0, let input else { return 0 }
        room.copyMemory(from: input + inputOffset, byteCount: count)
        inputOffset += count
        return count
    }

    mutating func appendOutput(_ bytes: UnsafeRawPointer, _ count: Int) {
        if outputCapacity - outputCount < count { growOutput(count) }
        UnsafeMutableRawPointer(output + outputCount).copyMemory(from: bytes, byteCount: count)
        outputCount += count
    }

    private mutating func growOutput(_ count: Int) {
        var capacity = outputCapacity
        while capacity - outputCount < count { capacity *= 2 }
        let larger = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
        UnsafeMutableRawPointer(larger).copyMemory(from: output, byteCount: outputCount)
        output.deallocate()
        output = larger
        outputCapacity = capacity
    }
}

/// The BIO that stands for the window. Made once for the process and never changed.
enum WindowBIO {
    /// A BIO over a window.
    static func make(_ window: UnsafeMutablePointer<TLSWindow>) -> OpaquePointer? {
        guard let method = method.pointer, let bio = BIO_new(method) else { return nil }
        BIO_set_data(bio, window)
        BIO_set_init(bio, 1)
        return bio
    }

    /// The method is read by all threads and written by none once it is made.
    private struct Method: @unchecked Sendable {
        /// nil if there was no memory for it: then no session is made.
        let pointer: OpaquePointer?
    }

    private static let method: Method = {
        guard let method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "headfirst window") else {
            return Method(pointer: nil)
        }
        BIO_meth_set_read_ex(method) { bio, room, capacity, count in
            guard let bio, let room, let count, let window = WindowBIO.window(of: bio) else { return 0 }
            COpenSSL_BIO_clear_retry_flags(bio)
            count.pointee = window.pointee.takeInput(room, capacity)
            if count.pointee > 0 { return 1 }
            // Also at the end of the connection: OpenSSL would break the session off, and could not send any more. The
            // session tells truncation by itself.
            COpenSSL_BIO_set_retry_read(bio)
            return 0
        }
        BIO_meth_set_write_ex(method) { bio, bytes, byteCount, count in
            guard let bio, let bytes, let count, let window = WindowBIO.window(of: bio) else { return 0 }
            COpenSSL_BIO_clear_retry_flags(bio)
            window.pointee.appendOutput(bytes, byteCount)
            count.pointee = byteCount
            return 1
        }
        BIO_meth_set_ctrl(method) { _, command, _, _ in
            // OpenSSL asks for much else; a BIO answers 0 to what it does not know.
            command == BIO_CTRL_FLUSH ? 1 : 0
        }
        return Method(pointer: method)
    }()

    private static func window(of bio: OpaquePointer) -> UnsafeMutablePointer<TLSWindow>? {
        BIO_get_data(bio)?.assumingMemoryBound(to: TLSWindow.self)
    }
}
