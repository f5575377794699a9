import HTTPSemantics
@testable import ProxyConfiguration
import ProxyRuntime
import Testing

/// What a watch was told, in order.
private enum Event: Sendable, Equatable {
    case change(ResolutionOutcome)
    case failure(ResolutionFailure)
}

/// A resolver whose only name servers are fakes, or nobody.
private struct Bench {
    let resolver: Resolver

    init(_ servers: FakeNameServer..., timing: ResolverTiming = quick) throws {
        try self.init(ports: servers.map(\.port), timing: timing)
    }

    init(ports: [UInt16], timing: ResolverTiming = quick) throws {
        let loopback = IPAddress(ipv4: 0x7F00_0001)
        resolver = try Resolver(
            source: .servers(ports.map { ResolverAddress(address: loopback, port: $0) }), timing: timing)
    }

    func watch(_ name: String, _ family: AddressFamily = .ipv4) -> Watch {
        let (events, continuation) = AsyncStream.makeStream(of: Event.self)
        let token = resolver.watch(
            name: name, family: family, onChange: { continuation.yield(.change($0)) },
            onFailure: { continuation.yield(.failure($0)) })
        return Watch(token: token, events: events.makeAsyncIterator())
    }
}

private struct Watch {
    let token: WatchToken
    var events: AsyncStream<Event>.Iterator

    mutating func next() async -> Event? { await events.next(isolation: #isolation) }
}

/// Times short enough for a test that waits for several lookups.
private let quick: ResolverTiming = {
    var timing = ResolverTiming()
    timing.ttlMillisecondsMin = 20
    timing.ttlMillisecondsMax = 100
    timing.retryMillisecondsMin = 5
    timing.retryMillisecondsMax = 20
    return timing
}()

/// Times short enough for a test that waits for servers that say nothing.
private let impatient: ResolverTiming = {
    var timing = quick
    timing.queryTimeoutMilliseconds = 250
    timing.roundsMax = 2
    return timing
}()

private func address(_ text: String) -> IPAddress {
    guard let address = IPAddress(text) else { preconditionFailure("not an address: \(text)") }
    return address
}

private func found(_ texts: String...) -> Event { .change(.addresses(texts.map(address))) }

@Suite(.timeLimit(.minutes(1)))
struct ResolverTests {
    @Test func answersAreSortedAndWithoutDuplicates() async throws {
        let server = FakeNameServer { _ in
            .addresses(
                ["192.0.2.9", "2001:db8::2", "192.0.2.10", "192.0.2.9", "2001:db8::1"].map(address), ttlSeconds: 60)
        }
        let bench = try Bench(server)
        var watch = bench.watch("app.test", .any)
        #expect(await watch.next() == found("192.0.2.9", "192.0.2.10", "2001:db8::1", "2001:db8::2"))
        bench.resolver.stop()
        server.stop()
    }

    @Test(arguments: [(AddressFamily.ipv4, "192.0.2.1"), (.ipv6, "2001:db8::1")])
    func onlyTheFamilyThatIsWantedIsAskedFor(family: AddressFamily, expected: String) async throws {
        let server = FakeNameServer { _ in .addresses(["192.0.2.1", "2001:db8::1"].map(address), ttlSeconds: 60) }
        let bench = try Bench(server)
        var watch = bench.watch("app.test", family)
        #expect(await watch.next() == found(expected))
        #expect(server.wasAsked("app.test", type: 1) == (family == .ipv4))
        #expect(server.wasAsked("app.test", type: 28) == (family == .ipv6))
        bench.resolver.stop()
        server.stop()
    }

    @Test func oneFamilyIsEnough() async throws {
        let server = FakeNameServer { question in
            question.type == 1 ? .addresses([address("192.0.2.1")], ttlSeconds: 60) : .code(3)
        }
        let bench = try Bench(server)
        var watch = bench.watch("app.test", .any)
        #expect(await watch.next() == found("192.0.2.1"))
        bench.resolver.stop()
        server.stop()
    }

    @Test func aFailureIsToldOnceAndTriedAgain() async throws {
        let server = FakeNameServer { question in
            question.previousCount < 3 ? .code(3) : .addresses([address("192.0.2.1")], ttlSeconds: 60)
        }
        let bench = try Bench(server)
        var watch = bench.watch("new.test")
        #expect(await watch.next() == .failure(.notFound))
        #expect(await watch.next() == .change(.failed(.notFound)))
        #expect(await watch.next() == found("192.0.2.1"))
        #expect(server.askedCount("new.test") >= 4)
        bench.resolver.stop()
        server.stop()
    }

    @Test func theLastGoodAnswerIsKept() async throws {
        let server = FakeNameServer { question in
            switch question.previousCount {
            case 0, 1, 5: .addresses([address("192.0.2.1")], ttlSeconds: 1)
            case 2...4: .code(2)
            case 6...8: .code(5)
            default: .addresses([address("192.0.2.2")], ttlSeconds: 1)
            }
        }
        let bench = try Bench(server)
        var watch = bench.watch("app.test")
        #expect(await watch.next() == found("192.0.2.1"))
        #expect(await watch.next() == .failure(.serverFailed))
        #expect(await watch.next() == .failure(.refused), "a new streak of failures is reported again")
        #expect(await watch.next() == found("192.0.2.2"))
        bench.resolver.stop()
        server.stop()
    }

    @Test func aNameIsLookedUpAgainWhenItsTTLIsOver() async throws {
        let server = FakeNameServer { question in
            .addresses([IPAddress(ipv4: 0xC000_0200 + UInt32(question.previousCount))], ttlSeconds: 1)
        }
        let bench = try Bench(server, timing: ResolverTiming())
        var watch = bench.watch("moves.test")
        #expect(await watch.next() == found("192.0.2.0"))
        #expect(await watch.next() == found("192.0.2.1"))
        #expect(await watch.next() == found("192.0.2.2"))
        #expect(server.duration("moves.test", from: 0, to: 2) >= .milliseconds(1_990))
        bench.resolver.stop()
        server.stop()
    }

    @Test func aTTLOfNothingHoldsForASecond() async throws {
        let server = FakeNameServer { question in
            .addresses([IPAddress(ipv4: 0xC000_0200 + UInt32(question.previousCount))], ttlSeconds: 0)
        }
        let bench = try Bench(server, timing: ResolverTiming())
        var watch = bench.watch("moves.test")
        #expect(await watch.next() == found("192.0.2.0"))
        #expect(await watch.next() == found("192.0.2.1"))
        #expect(server.duration("moves.test", from: 0, to: 1) >= .milliseconds(990))
        bench.resolver.stop()
        server.stop()
    }

    @Test func anAliasThatEndsSoonerCounts() async throws {
        let server = FakeNameServer { question in
            let moved = IPAddress(ipv4: 0xC000_0200 + UInt32(question.previousCount))
            return .alias(aliasTTLSeconds: 0, of: [moved], ttlSeconds: 3_600)
        }
        var timing = quick
        timing.ttlMillisecondsMax = 3_600_000
        let bench = try Bench(server, timing: timing)
        var watch = bench.watch("alias.test")
        #expect(await watch.next() == found("192.0.2.0"))
        #expect(await watch.next() == found("192.0.2.1"))
        bench.resolver.stop()
        server.stop()
    }

    @Test func aServerThatNeverAnswersTimesOut() async throws {
        let server = FakeNameServer { _ in .silence }
        let bench = try Bench(server, timing: impatient)
        var watch = bench.watch("app.test", .any)
        #expect(await watch.next() == .failure(.timedOut))
        #expect(await watch.next() == .change(.failed(.timedOut)))
        bench.resolver.stop()
        server.stop()
    }

    @Test func bytesThatAreNoMessageAreNoAnswer() async throws {
        let server = FakeNameServer { question in
            question.previousCount == 0 ? .garbage : .addresses([address("192.0.2.1")], ttlSeconds: 60)
        }
        let bench = try Bench(server, timing: impatient)
        var watch = bench.watch("app.test")
        #expect(await watch.next() == found("192.0.2.1"), "the second round is answered")
        bench.resolver.stop()
        server.stop()
    }

    @Test func aMalformedRecordIsAFailure() async throws {
        let server = FakeNameServer { _ in .malformedRecord }
        let bench = try Bench(server)
        var watch = bench.watch("app.test")
        #expect(await watch.next() == .failure(.malformedAnswer))
        bench.resolver.stop()
        server.stop()
    }

    @Test func aTruncatedAnswerIsFetchedByTCP() async throws {
        let addresses = (0..<200).map { IPAddress(ipv4: 0x0A00_0000 + UInt32($0)) }
        let server = FakeNameServer { question in
            question.isTCP ? .addresses(addresses.reversed(), ttlSeconds: 60) : .truncated
        }
        let bench = try Bench(server)
        var watch = bench.watch("large.test")
        #expect(await watch.next() == .change(.addresses(addresses)))
        bench.resolver.stop()
        server.stop()
    }

    @Test func aVeryLongAnswerIsCut() async throws {
        let addresses = (0..<1_000).map { IPAddress(ipv4: 0x0A00_0000 + UInt32($0)) }
        let server = FakeNameServer { question in
            question.isTCP ? .addresses(addresses, ttlSeconds: 60) : .truncated
        }
        let bench = try Bench(server)
        var watch = bench.watch("large.test")
        #expect(await watch.next() == .change(.addresses(Array(addresses.prefix(ResolverTiming.addressesMax)))))
        bench.resolver.stop()
        server.stop()
    }

    @Test func theNextServerIsAskedWhenTheFirstFails() async throws {
        let broken = FakeNameServer { _ in .code(2) }
        let silent = FakeNameServer { _ in .silence }
        let good = FakeNameServer { _ in .addresses([address("192.0.2.1")], ttlSeconds: 60) }
        let bench = try Bench(broken, silent, good, timing: impatient)
        var watch = bench.watch("app.test")
        #expect(await watch.next() == found("192.0.2.1"))
        bench.resolver.stop()
        for server in [broken, silent, good] { server.stop() }
    }

    @Test func noNameServerAtAll() async throws {
        // Port 1 (tcpmux) of the loopback: nothing has answered there for decades.
        let bench = try Bench(ports: [1])
        var watch = bench.watch("app.test")
        #expect(await watch.next() == .failure(.unanswered))
        bench.resolver.stop()
    }

    @Test(arguments: ["a..test", String(repeating: "a", count: 64) + ".test"])
    func aTextThatIsNoNameIsAFailure(name: String) async throws {
        let bench = try Bench(ports: [9])
        var watch = bench.watch(name)
        #expect(await watch.next() == .failure(.invalidName))
        bench.resolver.stop()
    }

    @Test func localhostIsLoopbackAndNobodyIsAsked() async throws {
        let server = FakeNameServer { _ in .code(3) }
        let bench = try Bench(server)
        var watch = bench.watch("localhost")
        #expect(await watch.next() == found("127.0.0.1"))
        let system = try Resolver(source: .system)
        let (outcomes, continuation) = AsyncStream.makeStream(of: ResolutionOutcome.self)
        _ = system.watch(
            name: "localhost", family: .ipv4, onChange: { continuation.yield($0) }, onFailure: { _ in })
        var iterator = outcomes.makeAsyncIterator()
        #expect(await iterator.next() == .addresses([address("127.0.0.1")]))
        #expect(server.askedCount("localhost") == 0)
        bench.resolver.stop()
        system.stop()
        server.stop()
    }

    @Test func moreNamesThanLookupsAtOnce() async throws {
        let server = FakeNameServer { _ in .addresses([address("192.0.2.1")], ttlSeconds: 60) }
        let bench = try Bench(server)
        var watches = (0..<(3 * ResolverTiming.lookupsMax)).map { bench.watch("name\($0).test", .any) }
        for index in watches.indices { #expect(await watches[index].next() == found("192.0.2.1")) }
        bench.resolver.stop()
        server.stop()
    }

    @Test func aNameThatNobodyWatchesIsNotLookedUp() async throws {
        let server = FakeNameServer { question in
            question.name == "silent.test"
                ? .silence
                : .addresses([IPAddress(ipv4: 0xC000_0200 + UInt32(question.previousCount))], ttlSeconds: 1)
        }
        let bench = try Bench(server)
        var watch = bench.watch("a.test")
        let silent = bench.watch("silent.test")
        #expect(await watch.next() == found("192.0.2.0"))
        bench.resolver.unwatch(watch.token)
        bench.resolver.unwatch(silent.token)
        // Commands and lookups are done in order by one thread, so another name's answers tell that time has passed.
        var other = bench.watch("b.test")
        #expect(await other.next() == found("192.0.2.0"))
        let askedCount = server.askedCount("a.test")
        for _ in 0..<5 { #expect(await other.next() != nil) }
        #expect(server.askedCount("a.test") == askedCount)
        bench.resolver.stop()
        server.stop()
    }

    @Test func aNameCanBeLookedUpOnce() async throws {
        let server = FakeNameServer { question in
            question.name == "bad.test" ? .code(3) : .addresses([address("192.0.2.1")], ttlSeconds: 1)
        }
        let bench = try Bench(server)
        for (name, expected) in [
            ("good.test", ResolutionOutcome.addresses([address("192.0.2.1")])), ("bad.test", .failed(.notFound)),
        ] {
            let (outcomes, continuation) = AsyncStream.makeStream(of: ResolutionOutcome.self)
            _ = bench.resolver.lookUp(name: name, family: .ipv4) { continuation.yield($0) }
            var iterator = outcomes.makeAsyncIterator()
            #expect(await iterator.next(isolation: #isolation) == expected)
        }
        // Another name's answers tell that time has passed, several TTLs of it.
        var other = bench.watch("other.test")
        let asked = server.askedCount("good.test")
        #expect(await other.next() == found("192.0.2.1"))
        #expect(server.askedCount("good.test") == asked)
        bench.resolver.stop()
        server.stop()
    }

    /// What clients ask for may wait for answers that never come; the servers' names do not wait for them.
    @Test func lookupsMadeOnceLeaveRoomForTheOthers() async throws {
        let server = FakeNameServer { question in
            question.name.hasPrefix("silent") ? .silence : .addresses([address("192.0.2.1")], ttlSeconds: 1)
        }
        let bench = try Bench(server, timing: ResolverTiming())
        let (refusals, continuation) = AsyncStream.makeStream(of: ResolutionOutcome.self)
        for index in 0...ResolverTiming.onceCountMax {
            _ = bench.resolver.lookUp(name: "silent\(index).test", family: .ipv4) { continuation.yield($0) }
        }
        var iterator = refusals.makeAsyncIterator()
        #expect(await iterator.next(isolation: #isolation) == .failed(.tooManyWaiting))
        var watch = bench.watch("server.test")
        let clock = ContinuousClock()
        let start = clock.now
        #expect(await watch.next() == found("192.0.2.1"))
        #expect(clock.now - start < .seconds(2))
        bench.resolver.stop()
        server.stop()
    }

    @Test func stoppingDoesNotWaitForAnswers() async throws {
        let server = FakeNameServer { _ in .silence }
        let bench = try Bench(server, timing: ResolverTiming())
        let (outcomes, continuation) = AsyncStream.makeStream(of: ResolutionOutcome.self)
        for index in 0..<10 {
            _ = bench.resolver.watch(
                name: "silent\(index).test", family: .any, onChange: { _ in continuation.yield(.failed(.timedOut)) },
                onFailure: { _ in })
        }
        let clock = ContinuousClock()
        let elapsed = clock.measure { bench.resolver.stop() }
        #expect(elapsed < .seconds(10))
        continuation.finish()
        var iterator = outcomes.makeAsyncIterator()
        #expect(await iterator.next() == nil, "a lookup that was cancelled is not told")
        server.stop()
    }
}
