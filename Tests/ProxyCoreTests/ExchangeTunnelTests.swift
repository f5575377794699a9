// Tunnels as the exchange decides them: when a 101 opens one, how each direction ends, what passes a reset on.

import HTTPSemantics
import ProxyConfiguration
import Testing

@testable import ProxyCore

@Suite struct ExchangeTunnelTests {
    private func exchange(
        _ method: String = "GET", version: String = "1.1", upgrade: String = "websocket", lines: String = "",
        policy: UpgradePolicy = .any
    ) throws -> Exchange {
        let request = try ParsedHead.request(
            method, "/", version: version, "Connection: Upgrade\r\nUpgrade: \(upgrade)\r\n\(lines)")
        var exchange = Exchange(
            requestHeadReceived: request, forwarding: try forwarding { $0.upgrade = policy }, mayPersist: true, now: 10)
        exchange.upstreamSought()
        _ = exchange.upstreamAttached(isReused: false, now: 20)
        return exchange
    }

    private func tunnel() throws -> Exchange {
        var exchange = try exchange()
        let head = try ParsedHead.response(101, "Upgrade: websocket\r\nConnection: Upgrade\r\n")
        #expect(exchange.responseHeadReceived(head, now: 30) == Actions(.forwardHead))
        #expect(exchange.isTunnel)
        #expect(!exchange.isHalfClosed)
        #expect(exchange.status == 101)
        return exchange
    }

    @Test(arguments: [
        ("websocket", UpgradePolicy.any, true), ("WebSocket", .websocket, true), ("other/1", .any, true),
        ("other", .websocket, false), ("websocket, other", .websocket, false), ("h2c", .any, false),
        ("h2c, websocket", .websocket, true), ("websocket", .off, false),
    ])
    func whatMayBeAskedFor(_ upgrade: String, _ policy: UpgradePolicy, _ passes: Bool) throws {
        var exchange = try exchange(upgrade: upgrade, policy: policy)
        #expect(exchange.wantsUpgrade == passes)
        let actions = exchange.responseHeadReceived(try ParsedHead.response(101), now: 30)
        #expect(actions == (passes ? Actions(.forwardHead) : Actions(.refuse, .close)))
        #expect(exchange.failure == (passes ? nil : .unexpectedSwitch))
    }

    @Test func http10AndAnUnnamedUpgradeAreIgnored() throws {
        #expect(try !exchange(version: "1.0").wantsUpgrade)
        let request = try ParsedHead.request("GET", "/", "Upgrade: websocket\r\n")
        let unnamed = Exchange(requestHeadReceived: request, forwarding: try forwarding(), mayPersist: true, now: 1)
        #expect(!unnamed.wantsUpgrade)
    }

    @Test func aSwitchBeforeTheRequestsEndIsRefused() throws {
        var exchange = try exchange("POST", lines: "Content-Length: 5\r\n")
        #expect(exchange.responseHeadReceived(try ParsedHead.response(101), now: 30) == Actions(.refuse, .close))
    }

    @Test func aRefusedUpgradeIsAnOrdinaryResponseOnAConnectionThatIsNotUsedAgain() throws {
        var exchange = try exchange()
        let head = try ParsedHead.response(200, "Content-Length: 0\r\n")
        #expect(exchange.responseHeadReceived(head, now: 30) == Actions(.forwardHead))
        #expect(!exchange.isTunnel)
        #expect(exchange.responseEnded(isReusable: true) == Actions(.finish, .close))
    }

    @Test func eachDirectionEndsForItself() throws {
        var exchange = try tunnel()
        #expect(exchange.tunnelInputEnded(.client, nothingWaits: true) == Actions(.none, .endSending))
        #expect(exchange.isHalfClosed)
        #expect(exchange.tunnelInputEnded(.server, nothingWaits: true) == Actions(.close, .close))
        #expect(exchange.responseSide == .ended)
        #expect(exchange.failure == nil)

        exchange = try tunnel()
        #expect(exchange.tunnelInputEnded(.server, nothingWaits: true) == Actions(.endSending))
        #expect(exchange.isHalfClosed)
        #expect(exchange.tunnelInputEnded(.client, nothingWaits: true) == Actions(.close, .close))
    }

    @Test func anEndWaitsForWhatIsBeforeIt() throws {
        var exchange = try tunnel()
        #expect(exchange.tunnelDelivered(to: .client) == Actions())
        #expect(exchange.tunnelInputEnded(.server, nothingWaits: false) == Actions())
        #expect(exchange.isHalfClosed)
        #expect(exchange.tunnelInputEnded(.client, nothingWaits: false) == Actions())
        #expect(exchange.isHalfClosed)
        #expect(exchange.tunnelDelivered(to: .server) == Actions(.none, .endSending))
        #expect(exchange.tunnelDelivered(to: .server) == Actions())
        #expect(exchange.tunnelDelivered(to: .client) == Actions(.close, .close))
    }

    @Test func aResetPasses() throws {
        var exchange = try tunnel()
        #expect(exchange.tunnelBroke(.client) == Actions(.close, .reset))
        #expect(exchange.failure == .clientGone)
        exchange = try tunnel()
        #expect(exchange.tunnelBroke(.server) == Actions(.reset, .close))
        #expect(exchange.failure == .tunnelReset)
    }

    @Test func silenceAndShutdownEndIt() throws {
        var exchange = try tunnel()
        #expect(exchange.tunnelTimedOut() == Actions(.close, .close))
        #expect(exchange.failure == .tunnelTimedOut)
        exchange = try tunnel()
        #expect(exchange.abandoned(.shutDown) == Actions(.truncate, .close))
    }

    private func connectExchange(dials: Bool) throws -> Exchange {
        let head = try ParsedHead("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", .request)
        var exchange = try Exchange(
            requestHeadReceived: head.head, forwarding: forwarding(), mayPersist: true, dials: dials, now: 10)
        exchange.upstreamSought()
        return exchange
    }

    @Test func aDialledTunnelOpensWithItsConnection() throws {
        var exchange = try connectExchange(dials: true)
        #expect(!exchange.isTunnel)
        #expect(exchange.upstreamAttached(isReused: false, now: 20) == Actions(.acceptTunnel))
        #expect(exchange.isTunnel)
        #expect(exchange.status == 200)
        #expect(exchange.closesDownstream)

        exchange = try connectExchange(dials: true)
        #expect(exchange.upstreamFailed(.connectRefused, hasAlternative: true) == Actions(.none, .retry))
        #expect(exchange.upstreamFailed(.connectRefused, hasAlternative: false) == Actions(.refuse, .close))
        #expect(exchange.closesDownstream)
    }

    @Test func anUpstreamsAnswerToConnectOpensItOrCloses() throws {
        for status in [200, 204, 299] {
            var exchange = try connectExchange(dials: false)
            #expect(exchange.upstreamAttached(isReused: false, now: 20) == Actions(.none, .sendRequest))
            let head = try ParsedHead.response(status, "")
            #expect(exchange.responseHeadReceived(head, now: 30) == Actions(.forwardHead))
            #expect(exchange.isTunnel)
        }
        var exchange = try connectExchange(dials: false)
        _ = exchange.upstreamAttached(isReused: false, now: 20)
        let refusal = try ParsedHead.response(407, "Content-Length: 0\r\n")
        #expect(exchange.responseHeadReceived(refusal, now: 30) == Actions(.forwardHead))
        #expect(!exchange.isTunnel)
        #expect(exchange.responseEnded(isReusable: true) == Actions(.finishAndClose, .close))

        exchange = try connectExchange(dials: false)
        _ = exchange.upstreamAttached(isReused: false, now: 20)
        #expect(
            exchange.responseHeadReceived(try ParsedHead.response(101, ""), now: 30) == Actions(.refuse, .close))
    }

    @Test func bytesAreCounted() throws {
        var exchange = try tunnel()
        exchange.tunnelBytesReceived(3, from: .client, now: 40)
        exchange.tunnelBytesReceived(4, from: .server, now: 50)
        exchange.tunnelBytesReceived(5, from: .server, now: 60)
        #expect(exchange.requestContentBytes == 3)
        #expect(exchange.responseContentBytes == 9)
        #expect(exchange.phases.firstContent == 50)
    }
}
