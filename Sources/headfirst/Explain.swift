import ArgumentParser
import EventLoop
import HTTP1
import HTTPSemantics
import ProxyConfiguration
import ProxyCore

/// `headfirst explain`
struct Explain: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Say what would become of a request, from the configuration alone.",
        discussion: """
            Prints the listener, the route and the upstream, the head as it would go up or the answer of the proxy's \
            own, the limits, the timers that would run, and what may hold bytes back. Nothing is sent, no name is \
            looked up, and nothing need be running. What only a connection could tell has stand-ins, which are named.

            The URL is http://HOST[:PORT]/PATH, a path alone, or HOST:PORT for CONNECT. Without --listener it is \
            explained for the first listener with an address that the URL may lead to, else for the first of all. \
            A request that would be refused is explained, too: the exit code is 0.

            EXAMPLES:
              headfirst explain GET http://api.example.com:8080/v1/users?page=2
              headfirst explain --config proxy.conf POST /upload/a \\
                  -H 'Host: www.example.com' -H 'Content-Length: 5'
              headfirst explain --listener web --format json GET /chat \\
                  -H 'Connection: upgrade' -H 'Upgrade: websocket'
              headfirst explain CONNECT db.example.com:5432
            """)

    /// In which form it is said.
    enum Format: String, ExpressibleByArgument, CaseIterable {
        /// For people.
        case text
        /// For programs.
        case json
    }

    @Option(
        help: ArgumentHelp("The configuration file (default: \(LoadedConfiguration.standardPath)).", valueName: "file"))
    var config: String?

    @Option(help: ArgumentHelp("The listener that the request comes to.", valueName: "name"))
    var listener: String?

    @Option(
        help: ArgumentHelp(
            "The client's IP address (default: \(Explanation.clientStandIn), a stand-in).", valueName: "address"))
    var client: String?

    @Option(help: ArgumentHelp("text or json.", valueName: "format"))
    var format = Format.text

    @Option(
        name: [.customShort("H"), .customLong("header")], parsing: .singleValue,
        help: ArgumentHelp("A field of the request, 'Name: value'. May be repeated.", valueName: "field"))
    var fields: [String] = []

    @Argument(help: "The method, such as GET.")
    var method: String

    @Argument(help: "The URL, or what stands in the request line.")
    var url: String

    func validate() throws {
        if let client, IPAddress(client) == nil { throw ValidationError("--client takes an IP address.") }
        _ = try request()
    }

    private func request() throws -> ExplainedRequest {
        do throws(ExplanationError) {
            return try ExplainedRequest(method: method, url: url, fields: fields)
        } catch {
            throw ValidationError(error.description)
        }
    }

    func run() throws {
        let request = try request()
        let loaded = try LoadedConfiguration.load(orExitFrom: config ?? LoadedConfiguration.standardPath)
        let explanation: Explanation
        do throws(ExplanationError) {
            explanation = try Explanation(
                of: request, in: loaded.configuration, listener: listener, client: client.flatMap { IPAddress($0) },
                nodeName: Process.nodeName(), readingHeadBy: Self.readHead)
        } catch {
            throw ValidationError(error.description)
        }
        switch format {
        case .text: Terminal.say(explanation.description)
        case .json: Terminal.say(explanation.json)
        }
    }

    /// What a worker's decoder says of the head.
    private static func readHead(
        _ bytes: UnsafeBufferPointer<UInt8>, _ head: Head, _ limits: HeadLimits
    ) -> HeadFault? {
        var decoder = HTTP1Decoder(.request)
        var offset = 0
        switch decoder.next(bytes, from: &offset, into: head, limits: limits) {
        case .head: return nil
        case .failed(let fault): return fault
        case .needsInput, .interim, .content, .trailers, .ended: preconditionFailure("a whole head was given")
        }
    }
}
