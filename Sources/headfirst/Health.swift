import ArgumentParser
import EventLoop
import Glibc
import HTTP1
import HTTPSemantics
import ProxyConfiguration

/// `headfirst health`
struct Health: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Ask a running proxy whether it lives.",
        discussion: """
            Asks the first address of the configuration's admin block for /healthz and prints the answer. An address that \
            stands for all is asked on the loopback. The exit code is 0 if the answer is 200, 1 if it is another or none \
            within 3 seconds, and 78 if the configuration is wrong or has no admin block.
            """)

    @OptionGroup var configuration: ConfigurationPath

    private static let limitMilliseconds = 3000
    private static let answerBytesMax = 4096

    func run() throws {
        let loaded = try LoadedConfiguration.load(orExitFrom: configuration.path)
        guard let endpoint = loaded.configuration.admin?.binds.first?.endpoint else {
            Terminal.complain("headfirst: \(configuration.path): there is no admin block, so nobody can be asked")
            throw Exit.configuration
        }
        guard let address = Self.address(of: endpoint) else {
            Terminal.complain(
                "headfirst: the admin address cannot be asked: a free port, or a socket handed over, is no address to go to"
            )
            throw ExitCode(1)
        }
        do throws(HealthError) {
            let (status, content) = try Self.ask(address)
            Terminal.say(content)
            if status != 200 { throw HealthError("the answer has status \(status)") }
        } catch {
            Terminal.complain("headfirst: \(error.description)")
            throw ExitCode(1)
        }
    }

    /// Where to ask.
    private static func address(of endpoint: Endpoint) -> SocketAddress? {
        switch endpoint {
        case .ip(_, port: 0), .name, .inherited: return nil
        case .ip(let address, let port):
            let isWildcard = address.isIPv4 ? address.low == 0xFFFF_0000_0000 : address.high == 0 && address.low == 0
            guard isWildcard else {
                return SocketAddress(high: address.high, low: address.low, isIPv4: address.isIPv4, port: port)
            }
            return SocketAddress(
                high: 0, low: address.isIPv4 ? 0xFFFF_7F00_0001 : 1, isIPv4: address.isIPv4, port: port)
        case .unix(let path): return SocketAddress(path: path)
        }
    }

    /// Asks, and waits for a whole answer.
    private static func ask(_ address: SocketAddress) throws(HealthError) -> (status: UInt16, content: String) {
        let deadline = Clock.monotonicMicroseconds() / 1000 + UInt64(limitMilliseconds)
        let socket: Int32
        do throws(SystemError) {
            socket = try Socket.make(for: address)
            if try !Socket.connect(socket, to: address) {
                try? wait(socket, POLLOUT, until: deadline)
                let number = Socket.takeError(socket)
                if number != 0 { throw SystemError("connect", number: number) }
            }
        } catch {
            throw HealthError("nobody answers: \(error.reason)")
        }
        defer { Socket.close(socket) }
        let request = Array("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".utf8)
        try wait(socket, POLLOUT, until: deadline)
        // The first bytes on a connection always fit into its buffer.
        guard case .bytes(request.count) = Socket.send(socket, request, count: request.count) else {
            throw HealthError("the connection broke")
        }
        var answer: [UInt8] = []
        var room = [UInt8](repeating: 0, count: answerBytesMax)
        while answer.count < answerBytesMax {
            try wait(socket, POLLIN, until: deadline)
            switch Socket.receive(socket, into: &room, capacity: room.count) {
            case .bytes(let count): answer += room.prefix(count)
            case .wouldBlock: continue
            case .ended: return try read(answer)
            case .failed: throw HealthError("the connection broke")
            }
        }
        throw HealthError("the answer is too long")
    }

    private static func wait(_ socket: Int32, _ events: Int32, until deadline: UInt64) throws(HealthError) {
        while true {
            let now = Clock.monotonicMicroseconds() / 1000
            guard now < deadline else { throw HealthError("no answer within \(limitMilliseconds / 1000) seconds") }
            var entry = pollfd(fd: socket, events: Int16(events), revents: 0)
            if poll(&entry, 1, Int32(deadline - now)) > 0 { return }
        }
    }

    private static func read(_ answer: [UInt8]) throws(HealthError) -> (status: UInt16, content: String) {
        let head = Head(fieldsCapacity: 32)
        defer { head.destroy() }
        let limits = HeadLimits(headBytesMax: answerBytesMax, fieldsMax: 32, targetBytesMax: 0)
        var decoder = HTTP1Decoder(.response)
        let (status, content, isWhole) = answer.withUnsafeBufferPointer { bytes in
            var offset = 0
            var status: UInt16 = 0
            var content = ""
            while true {
                switch decoder.next(bytes, from: &offset, into: head, limits: limits) {
                case .interim, .trailers: break
                case .head: status = head.storage.pointee.status
                case .content(let start, let count):
                    content += String(decoding: bytes[start..<(start + count)], as: UTF8.self)
                case .ended: return (status, content, true)
                case .needsInput, .failed: return (status, content, false)
                }
            }
        }
        guard isWhole else { throw HealthError("the answer is no HTTP response, or not whole") }
        return (status, content.last == "\n" ? String(content.dropLast()) : content)
    }
}

/// Why a probe failed.
private struct HealthError: Error {
    let description: String
    init(_ description: String) { self.description = description }
}
