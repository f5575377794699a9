// The idle connections to one server, last in first out, linked through the connections themselves.

import Bytes

/// The link that a poolable connection embeds. Trivial.
public struct IdleLink {
    fileprivate var newer: UnsafeMutablePointer<IdleLink>?
    fileprivate var older: UnsafeMutablePointer<IdleLink>?
    /// The connection it is embedded in.
    public let owner: SlabToken
    /// When the connection became idle, in milliseconds of the monotonic clock.
    public fileprivate(set) var idleSinceMilliseconds: UInt64 = 0
    /// Whether it is in a pool.
    public fileprivate(set) var isPooled = false

    /// A link that is in no pool.
    public init(owner: SlabToken) {
        newer = nil
        older = nil
        self.owner = owner
    }
}

/// The pool. Trivial; its owner keeps it in one place.
public struct IdlePool {
    private var newest: UnsafeMutablePointer<IdleLink>?
    private var oldest: UnsafeMutablePointer<IdleLink>?
    /// Connections in it.
    public private(set) var count = 0

    /// An empty pool.
    public init() {}

    /// The connection that became idle last, without taking it.
    public var newestOwner: (owner: SlabToken, idleSinceMilliseconds: UInt64)? {
        newest.map { ($0.pointee.owner, $0.pointee.idleSinceMilliseconds) }
    }

    /// The connection that has been idle longest, without taking it.
    public var oldestOwner: SlabToken? { oldest?.pointee.owner }
    /// Since when; milliseconds, `.max` if there is none.
    public var oldestIdleSinceMilliseconds: UInt64 { oldest?.pointee.idleSinceMilliseconds ?? .max }

    /// Puts a connection in.
    public mutating func push(_ link: UnsafeMutablePointer<IdleLink>, nowMilliseconds: UInt64) {
        precondition(!link.pointee.isPooled, "pooled twice")
        link.pointee.isPooled = true
        link.pointee.idleSinceMilliseconds = nowMilliseconds
        link.pointee.newer = nil
        link.pointee.older = newest
        newest?.pointee.newer = link
        newest = link
        if oldest == nil { oldest = link }
        count += 1
    }

    /// Takes a connection out, wherever it is.
    public mutating func remove(_ link: UnsafeMutablePointer<IdleLink>) {
        precondition(link.pointee.isPooled, "not pooled")
        link.pointee.isPooled = false
        if let newer = link.pointee.newer {
            newer.pointee.older = link.pointee.older
        } else {
            newest = link.pointee.older
        }
        if let older = link.pointee.older {
            older.pointee.newer = link.pointee.newer
        } else {
            oldest = link.pointee.newer
        }
        link.pointee.newer = nil
        link.pointee.older = nil
        count -= 1
    }
}
