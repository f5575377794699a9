// What a message is made of, as every version's codec tells it.

/// What a decoder found next.
public enum MessageEvent: Equatable, Sendable {
    /// Everything that can be told from these bytes was told; what is not consumed must come again with more.
    case needsInput
    /// An interim response's head is in the scratch. More heads follow.
    case interim
    /// The head is in the scratch.
    case head
    /// Content lies at this place in the input.
    case content(start: Int, count: Int)
    /// A trailer section with at least one field is in the scratch; `ended` follows.
    case trailers
    /// The message is complete.
    case ended
    /// The message breaks a rule; nothing can be read from this connection any more.
    case failed(HeadFault)
}

/// Which side of the connection sends what is decoded.
public enum MessageKind: UInt8, Sendable {
    /// Requests.
    case request
    /// Responses.
    case response
}
