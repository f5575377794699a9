// Asking the admin listener of a proxy under test.

import Glibc
import Testing

extension Headfirst {
    /// The port of the only address of `admin`.
    func adminPort() throws -> UInt16 {
        let line = try errorLog.line(with: "admin=127.0.0.1:")
        let digits = line.split(separator: "admin=127.0.0.1:").last?.prefix { $0.isNumber } ?? ""
        return try #require(UInt16(digits))
    }

    func connectToAdmin() throws -> Wire { try Address.ipv4(port: adminPort()).connect() }

    /// Asks the admin listener.
    func askAdmin(_ path: String, method: String = "GET", host: String = "localhost") throws -> Message {
        let client = try connectToAdmin()
        try client.ask("\(method) \(path) HTTP/1.1", host: host)
        let response = try client.response(toHEAD: method == "HEAD")
        #expect(client.end() == .ended)
        return response
    }

    /// The value of a series; nil if it is not there.
    func metric(_ series: String) throws -> Double? {
        try askAdmin("/metrics").text.split(separator: "\n").first { $0.hasPrefix("\(series) ") }
            .flatMap { Double($0.split(separator: " ").last ?? "") }
    }

    /// Whether a series comes to a value: what is counted when something is over is counted a moment behind the answer.
    func metric(_ series: String, becomes value: Double?) throws -> Bool {
        let deadline = Now.milliseconds + 4000
        while try metric(series) != value {
            guard Now.milliseconds < deadline else { return false }
            usleep(2000)
        }
        return true
    }
}
