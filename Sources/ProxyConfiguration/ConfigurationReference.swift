// docs/CONFIGURATION.md, written from the table that validates.

/// The reference of the configuration file.
public enum ConfigurationReference {
    /// The whole reference in Markdown.
    public static func markdown() -> String {
        var text = introduction
        text += "## Directives\n\n"
        text +=
            "Where several may stand, the innermost wins. `DURATION|off` are timers, and `off` switches one off.\n\n"
        for section in Directive.sections {
            text += "### \(section.title)\n\n| Directive | Where | Default | What it does |\n|---|---|---|---|\n"
            for directive in section.directives { text += row(directive) }
            text += "\n"
        }
        return text + variables + closing
    }

    private static func row(_ directive: Directive) -> String {
        let isAnywhere = directive.contexts == Context.allCases
        let contexts = isAnywhere ? "anywhere" : directive.contexts.map(\.title).joined(separator: ", ")
        let value = directive.defaultText.map { "`\($0)`" } ?? ""
        let cells = ["`\(directive.usage)`", contexts, value, directive.summary]
        return "| " + cells.map(cell).joined(separator: " | ") + " |\n"
    }

    /// Within a table a bar would end the cell, also in code.
    private static func cell(_ text: String) -> String {
        text.split(separator: "|", omittingEmptySubsequences: false).joined(separator: "\\|")
    }

    private static let introduction = """
        # The configuration file

        <!-- Generated from the table of directives (Sources/ProxyConfiguration/DirectiveTable.swift).
             To write it anew: UPDATE_DOCS=1 swift test --filter ReferenceTests -->

        One file in nginx's shape says everything. A small one:

        ```
        upstream app {
            server 127.0.0.1:3000;
        }
        listener web {
            bind 8080;
            route / { upstream app; }
        }
        ```

        `headfirst check --config FILE` lists every mistake with its line and column, and
        [proxy.conf.example](../proxy.conf.example) shows every directive in use.

        ## Grammar

        - A directive is `name arguments;` or `name arguments { ... }`. The order of directives in a block does not matter,
          but for `server`, `resolver` and the field edits. A directive that takes one value stands once in a block.
        - A word goes up to a blank, `;`, `{` or `}`. In `"double"` or `'single'` quotes it may hold those too, with the
          escapes `\\\\`, `\\"`, `\\'`, `\\n`, `\\r` and `\\t`. A quoted word ends on its line. Outside quotes there is no
          backslash.
        - `#` at the start of a word begins a comment, up to the end of the line.
        - A line that begins with a directive's name begins a directive: a `;` that was forgotten before it is found out. An
          argument that is called like a directive and begins a line is put in quotes.
        - Durations are a number and `ms`, `s`, `m`, `h` or `d`, up to `30d`; only `0` needs no unit. Sizes are bytes, or a
          number and `k`, `m` or `g` (powers of 1024).
        - Relative paths of logs and Unix sockets start at the main file's folder.
        - The file is UTF-8, with LF or CRLF line ends, and at most 1 MiB large. Control bytes and broken UTF-8 are errors, but
          in comments. A byte order mark at its start is skipped.


        """

    private static var variables: String {
        var text = """
            ## Variables

            `$name` stands for a value of the request in hand, in the VALUE of a field edit, the TEXT of `respond` and the URL
            of `redirect`. `$$` is a dollar. An unknown name is an error.

            | Variable | What it stands for |
            |---|---|

            """
        for variable in Variable.allCases { text += "| `$\(variable.rawValue)` | \(variable.summary) |\n" }
        return text + "\n"
    }

    private static let closing = """
        ## Environment

        `${NAME}` is replaced by the environment variable of that name, `${NAME:-default}` by the default if it is unset or
        empty; without a default an unset one is an error. It works in every word, in quotes as well, but not in comments. What
        it brings in stays part of its word: blanks, quotes, `;`, `{` and `$` in it mean nothing.

        ## Include

        `include FILE;` puts the directives of another file in its place, at top level or within a block. A relative path starts
        at the folder of the file that includes. The file's name, but not its folder, may have the wildcards `*` and `?`: then
        every file that matches is read in the order of the names, and it is no mistake if there is none. A file cannot include
        itself. Includes go 8 deep and are at most 256 in all; blocks go 8 deep.

        ## Routes

        - `host` sections are looked at first: the very name, then the longest `*.` pattern. A request whose host is in none of
          them takes the routes that stand in the listener itself.
        - `route = PATH` matches that path alone and comes before all others. Else the longest `route PATH` wins, at the border
          of a segment: `/events` matches `/events` and `/events/x`, but not `/eventsX`; `/events/` does not match `/events`;
          `/` matches everything. If nothing matches, the answer is 404.
        - Paths are compared byte for byte, as the client sent them, without the query.
        - A route does exactly one thing: `upstream`, `respond` or `redirect`.
        - The settings of the upstream's side come from the route, else from its upstream, else from the top level. All others
          come from the route, else from its host, its listener, the top level.

        ## Field edits

        The edits of the listener come first, then those of the host, then those of the route, each in the order of the file:
        so the inner one wins. A block has at most 256 of them. Response edits touch the final response, not interim ones and
        not trailers.

        `Connection`, `Keep-Alive`, `Proxy-Connection`, `TE`, `Upgrade`, `Transfer-Encoding`, `Content-Length`, `Trailer` and
        `Expect` cannot be edited: the proxy writes or passes them by the rules of HTTP. `Host` can be set in requests.

        """
}

extension Variable {
    /// What it stands for, for the reference.
    fileprivate var summary: String {
        switch self {
        case .host: "The request's host, in lower case, without port"
        case .node: "The name of this machine"
        case .clientAddress: "The client's address (the peer's)"
        case .clientPort: "The client's port"
        case .scheme: "`http` or `https`, as the client speaks to the proxy"
        case .method: "The request's method"
        case .target: "The request's target as it goes up: path and query, byte for byte as they were sent"
        case .path: "The target's path, without query"
        case .query: "The target's query, without `?`"
        case .requestID: "The request's X-Request-Id, received (of several the first with a value) or made"
        case .listener: "The listener's name"
        case .route: "The route: `/events` or `= /old`"
        case .upstream: "The upstream's name; empty if the route has none"
        case .tlsVersion: "The client's TLS version, such as `TLSv1.3`; empty in clear"
        case .tlsCipher: "The client's cipher suite by OpenSSL's name; empty in clear"
        case .tlsServerName: "The host that the client asked for in the TLS handshake (SNI), or empty"
        }
    }
}
