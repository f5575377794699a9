// What can go wrong with an exchange, and the one place that says what follows from it: whose side it was, the
// status, the Proxy-Status (RFC 9209), whether another try may help, and the name in the log.

import HTTPSemantics

/// Whose side failed.
public enum FailureSide: UInt8, Sendable {
    /// The client's.
    case downstream
    /// The upstream's.
    case upstream
    /// Ours.
    case proxy
}

/// Why an exchange did not end as it should.
public enum Failure: UInt8, Error, Sendable, CaseIterable {
    // The client's side.

    /// The request broke a rule; the `HeadFault` beside it says which.
    case requestRefused
    /// The request's head was not complete in time.
    case requestHeadTimedOut
    /// Request content was awaited and did not come, or came too slowly.
    case requestContentTimedOut
    /// The request's content is longer than `content_max`.
    case requestContentTooLong
    /// No route matches.
    case noRoute
    /// The method is not allowed here.
    case methodNotAllowed
    /// CONNECT to what is not allowed.
    case connectForbidden
    /// Host is for another TLS policy than the connection's.
    case misdirected
    /// The exchange took longer than `request_timeout`.
    case requestTimedOut
    /// The client is gone.
    case clientGone
    /// The client took nothing for too long.
    case clientStalled

    // The upstream's side.

    /// The server's name has no address.
    case nameNotFound
    /// The name servers did not answer.
    case nameTimedOut
    /// The server refused the connection.
    case connectRefused
    /// The server cannot be reached.
    case connectUnreachable
    /// The server did not accept in time.
    case connectTimedOut
    /// The server's certificate is not good.
    case tlsCertificateRefused
    /// The server ended the TLS handshake by an alert.
    case tlsAlertReceived
    /// The server does not speak TLS, or not as it must.
    case tlsFailed
    /// The server closed or reset before the first byte of an answer.
    case closedBeforeResponse
    /// The server closed or reset within a head.
    case closedWithinHead
    /// No final head in time.
    case responseHeadTimedOut
    /// The response breaks a rule; the `HeadFault` beside it says which.
    case responseRefused
    /// The response's head is too long.
    case responseHeadTooLong
    /// More interim responses than one exchange may have.
    case tooManyInterim
    /// A 101 that nobody asked for.
    case unexpectedSwitch
    /// It did not switch, and its success would be taken for a tunnel: in HTTP/2 a 2xx opens one (RFC 8441 section 5).
    case switchIgnored
    /// The content ended too early.
    case responseTruncated
    /// The content stood still for too long.
    case responseIdleTimedOut
    /// The server reset a tunnel.
    case tunnelReset
    /// Nothing passed through a tunnel for too long.
    case tunnelTimedOut

    // Ours.

    /// Every server is at its `max_exchanges`, and the queue is full.
    case queueFull
    /// No server became free in time.
    case queueTimedOut
    /// No descriptor or no memory for a connection upstream.
    case outOfResources
    /// The process ends before the exchange does.
    case shutDown
    /// The request has come by here many times: it goes round in a loop.
    case loopDetected

    /// Whose side it was.
    public var side: FailureSide {
        switch self {
        case .requestRefused, .requestHeadTimedOut, .requestContentTimedOut, .requestContentTooLong, .noRoute,
            .methodNotAllowed, .connectForbidden, .misdirected, .requestTimedOut, .clientGone, .clientStalled:
            .downstream
        case .nameNotFound, .nameTimedOut, .connectRefused, .connectUnreachable, .connectTimedOut,
            .tlsCertificateRefused, .tlsAlertReceived, .tlsFailed, .closedBeforeResponse, .closedWithinHead,
            .responseHeadTimedOut, .responseRefused, .responseHeadTooLong, .tooManyInterim, .unexpectedSwitch,
            .switchIgnored, .responseTruncated, .responseIdleTimedOut, .tunnelReset, .tunnelTimedOut:
            .upstream
        case .queueFull, .queueTimedOut, .outOfResources, .shutDown, .loopDetected:
            .proxy
        }
    }

    /// The status that answers it, where no head was sent yet.
    /// - Parameter fault: what the request's fault was, for `requestRefused`.
    public func status(_ fault: HeadFault) -> UInt16 {
        switch self {
        case .requestRefused: fault.requestStatus
        case .requestHeadTimedOut, .requestContentTimedOut: 408
        case .requestContentTooLong: 413
        case .noRoute: 404
        case .methodNotAllowed: 405
        case .connectForbidden: 403
        case .misdirected: 421
        case .clientGone, .clientStalled: 408
        case .nameNotFound, .connectRefused, .connectUnreachable, .tlsCertificateRefused, .tlsAlertReceived,
            .tlsFailed, .closedBeforeResponse, .closedWithinHead,
            .responseRefused, .responseHeadTooLong, .tooManyInterim, .unexpectedSwitch, .switchIgnored,
            .responseTruncated, .tunnelReset:
            502
        case .nameTimedOut, .connectTimedOut, .responseHeadTimedOut, .responseIdleTimedOut, .requestTimedOut,
            .tunnelTimedOut:
            504
        case .queueFull, .queueTimedOut, .outOfResources, .shutDown: 503
        // RFC 5842 section 7.2.
        case .loopDetected: 508
        }
    }

    /// The error type of RFC 9209 section 2.3.
    public func proxyStatusError(_ fault: HeadFault) -> StaticString {
        switch self {
        case .requestRefused, .requestHeadTimedOut, .requestContentTimedOut, .requestContentTooLong, .noRoute,
            .methodNotAllowed, .misdirected, .clientGone, .clientStalled:
            "http_request_error"
        case .connectForbidden: "http_request_denied"
        case .nameNotFound: "dns_error"
        case .nameTimedOut: "dns_timeout"
        case .connectRefused: "connection_refused"
        case .connectUnreachable: "destination_ip_unroutable"
        case .connectTimedOut, .tunnelTimedOut: "connection_timeout"
        case .tlsCertificateRefused: "tls_certificate_error"
        case .tlsAlertReceived: "tls_alert_received"
        case .tlsFailed: "tls_protocol_error"
        case .closedBeforeResponse, .tunnelReset: "connection_terminated"
        case .closedWithinHead, .responseTruncated: "http_response_incomplete"
        case .responseHeadTimedOut, .requestTimedOut: "http_response_timeout"
        case .responseIdleTimedOut: "connection_read_timeout"
        case .responseRefused:
            switch fault {
            case .transferCoding, .transferEncoding: "http_response_transfer_coding"
            case .headTooLong, .tooManyFields: "http_response_header_section_size"
            default: "http_protocol_error"
            }
        case .responseHeadTooLong, .tooManyInterim: "http_response_header_section_size"
        case .unexpectedSwitch, .switchIgnored: "http_upgrade_failed"
        case .queueFull, .queueTimedOut, .outOfResources: "connection_limit_reached"
        case .shutDown: "destination_unavailable"
        case .loopDetected: "proxy_loop_detected"
        }
    }

    /// One sentence for people, without a full stop.
    public func explanation(_ fault: HeadFault) -> StaticString {
        switch self {
        case .requestRefused, .responseRefused: fault.explanation
        case .requestHeadTimedOut: "the request head was not complete in time"
        case .requestContentTimedOut: "the request content did not come in time"
        case .requestContentTooLong: "the request content is too long"
        case .noRoute: "no route matches"
        case .methodNotAllowed: "the method is not allowed here"
        case .connectForbidden: "CONNECT to this host and port is not allowed"
        case .misdirected: "this connection was made for another host"
        case .requestTimedOut: "the exchange took too long"
        case .clientGone: "the client is gone"
        case .clientStalled: "the client takes nothing"
        case .nameNotFound: "the upstream's name has no address"
        case .nameTimedOut: "the upstream's name could not be looked up in time"
        case .connectRefused: "the upstream refused the connection"
        case .connectUnreachable: "the upstream cannot be reached"
        case .connectTimedOut: "the upstream did not accept the connection in time"
        case .tlsCertificateRefused: "the upstream's certificate is not good"
        case .tlsAlertReceived: "the upstream ended the TLS handshake by an alert"
        case .tlsFailed: "the TLS handshake with the upstream failed"
        case .closedBeforeResponse: "the upstream closed the connection before it answered"
        case .closedWithinHead: "the upstream closed the connection within a head"
        case .responseHeadTimedOut: "the upstream did not answer in time"
        case .responseHeadTooLong: "the upstream's head is too long"
        case .tooManyInterim: "the upstream sent too many interim responses"
        case .unexpectedSwitch: "the upstream switched protocols without being asked"
        case .switchIgnored: "the upstream did not switch protocols"
        case .responseTruncated: "the upstream closed the connection within the content"
        case .responseIdleTimedOut: "the upstream's content stood still for too long"
        case .tunnelReset: "the upstream reset the tunnel"
        case .tunnelTimedOut: "nothing passed through the tunnel for too long"
        case .queueFull: "every upstream server is busy and the queue is full"
        case .queueTimedOut: "no upstream server became free in time"
        case .outOfResources: "there is no descriptor or no memory left for it"
        case .shutDown: "the proxy is shutting down"
        case .loopDetected: "the request has come by here many times"
        }
    }

    /// The termination reason in the access log.
    public var logName: StaticString {
        switch self {
        case .requestRefused: "request_refused"
        case .requestHeadTimedOut: "request_head_timeout"
        case .requestContentTimedOut: "request_idle_timeout"
        case .requestContentTooLong: "request_too_long"
        case .noRoute: "no_route"
        case .methodNotAllowed: "method_not_allowed"
        case .connectForbidden: "connect_forbidden"
        case .misdirected: "misdirected"
        case .requestTimedOut: "request_timeout"
        case .clientGone: "client_aborted"
        case .clientStalled: "send_timeout"
        case .nameNotFound: "upstream_name_error"
        case .nameTimedOut: "upstream_name_timeout"
        case .connectRefused: "upstream_refused"
        case .connectUnreachable: "upstream_unreachable"
        case .connectTimedOut: "upstream_connect_timeout"
        case .tlsCertificateRefused: "upstream_tls_certificate"
        case .tlsAlertReceived: "upstream_tls_alert"
        case .tlsFailed: "upstream_tls_failed"
        case .closedBeforeResponse: "upstream_closed"
        case .closedWithinHead: "upstream_head_truncated"
        case .responseHeadTimedOut: "upstream_timeout"
        case .responseRefused: "upstream_malformed"
        case .responseHeadTooLong: "upstream_head_too_long"
        case .tooManyInterim: "upstream_interim_flood"
        case .unexpectedSwitch: "upstream_switched"
        case .switchIgnored: "upstream_not_switched"
        case .responseTruncated: "upstream_truncated"
        case .responseIdleTimedOut: "upstream_idle_timeout"
        case .tunnelReset: "upstream_reset"
        case .tunnelTimedOut: "tunnel_timeout"
        case .queueFull: "queue_full"
        case .queueTimedOut: "queue_timeout"
        case .outOfResources: "out_of_resources"
        case .shutDown: "shut_down"
        case .loopDetected: "loop"
        }
    }

    /// Whether nothing of the request can have reached a server, so that any method may be tried elsewhere.
    public var isBeforeRequest: Bool {
        switch self {
        case .nameNotFound, .nameTimedOut, .connectRefused, .connectUnreachable, .connectTimedOut,
            .tlsCertificateRefused, .tlsAlertReceived, .tlsFailed:
            true
        case .requestRefused, .requestHeadTimedOut, .requestContentTimedOut, .requestContentTooLong, .noRoute,
            .methodNotAllowed, .connectForbidden, .misdirected, .requestTimedOut, .clientGone, .clientStalled,
            .closedBeforeResponse,
            .closedWithinHead, .responseHeadTimedOut, .responseRefused, .responseHeadTooLong, .tooManyInterim,
            .unexpectedSwitch, .switchIgnored, .responseTruncated, .responseIdleTimedOut, .tunnelReset, .tunnelTimedOut,
            .queueFull,
            .queueTimedOut, .outOfResources, .shutDown, .loopDetected:
            false
        }
    }
}
