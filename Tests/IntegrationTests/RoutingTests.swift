// What the proxy answers itself, where requests go, and the edits on their way.

import Glibc
import Testing

@Suite struct RoutingTests {
    private func proxy(_ listener: String, top: String = "") throws -> Headfirst {
        let origins = ["a", "b"].map { name in
            Origin.serving { wire, request in
                let host = request["Host"] ?? ""
                try wire.ok("\(name) \(host) \(request.target)", "X-Old: 1", "X-Old: 2", "Server: origin")
            }
        }
        return try Headfirst(
            configuration: """
                workers 1; access_log off; \(top)
                upstream a { server \(origins[0].address.text); }
                upstream b { server \(origins[1].address.text); }
                listener main { bind 127.0.0.1:0; \(listener) }
                """, origins: origins)
    }

    private func get(_ proxy: Headfirst, _ target: String, host: String = "test", _ fields: String...) throws -> Message
    {
        let lines = ["GET \(target) HTTP/1.1", "Host: \(host)"] + fields
        return try proxy.answer(to: lines.joined(separator: "\r\n") + "\r\n\r\n")
    }

    @Test func paths() throws {
        let proxy = try proxy(
            "route = /old { respond 410 gone; } route /api { upstream b; } route /api/v1/ { respond 200 v1; } "
                + "route / { upstream a; }")
        #expect(try get(proxy, "/x").text == "a test /x")
        #expect(try get(proxy, "/api").text == "b test /api")
        #expect(try get(proxy, "/api?x=/api/v1/").text == "b test /api?x=/api/v1/")
        #expect(try get(proxy, "/api/v1").text == "b test /api/v1")
        #expect(try get(proxy, "/api/v1/x").text == "v1")
        #expect(try get(proxy, "/apiX").text == "a test /apiX")
        #expect(try get(proxy, "/old").status == 410)
        #expect(try get(proxy, "/old?q").status == 410)
        #expect(try get(proxy, "/old/").text == "a test /old/")
    }

    @Test func hosts() throws {
        let proxy = try proxy(
            "host api.test { route / { respond 200 exact; } } host *.test { route /only { respond 200 star; } } "
                + "route / { upstream a; }")
        #expect(try get(proxy, "/", host: "API.test:8080").text == "exact")
        #expect(try get(proxy, "/only", host: "x.y.test").text == "star")
        #expect(try get(proxy, "/", host: "x.test").status == 404)
        #expect(try get(proxy, "/", host: "test").text == "a test /")
        let absolute = try proxy.answer(to: head("GET http://api.test/ HTTP/1.1", "Host: api.test"))
        #expect(absolute.text == "exact")
    }

    @Test func noRouteIs404() throws {
        let proxy = try proxy("route /a { upstream a; }", top: "")
        let response = try get(proxy, "/b")
        #expect(response.status == 404)
        #expect(response["Proxy-Status"]?.hasPrefix("headfirst; error=") == true)
        #expect(response["Content-Type"] == "text/plain; charset=utf-8")
        #expect(response["Connection"] == nil)
        #expect(response["Date"] != nil)
    }

    @Test func errorsInJSON() throws {
        let proxy = try proxy("error_format json; route /a { upstream a; }")
        let response = try get(proxy, "/b")
        #expect(response["Content-Type"] == "application/json")
        let object = try JSON(response.text)
        #expect(object["status"] == "404")
        #expect(object["reason"] == "Not Found")
        // Also where no route was found since the head could not be read.
        let refused = try proxy.answer(to: "GET / HTTP/1.1\r\n\r\n")
        #expect(try JSON(refused.text)["status"] == "400")
    }

    @Test func respondAndRedirect() throws {
        let proxy = try proxy(
            "route /text { respond 418 \"short\"; } route /none { respond 204; } "
                + "route /to { redirect 308 \"https://$host/new$path?$query\"; } "
                + "route /vars { respond 200 \"$method $host $target $path $query $scheme $listener $route $client_address "
                + "$$\"; }")
        let text = try get(proxy, "/text")
        #expect(text.startLine == "HTTP/1.1 418 I'm a teapot")
        #expect(text.text == "short")
        #expect(try get(proxy, "/none")["Content-Length"] == nil)
        let moved = try get(proxy, "/to/x?a=b", host: "Test:81")
        #expect(moved.status == 308)
        #expect(moved["Location"] == "https://test/new/to/x?a=b")
        #expect(
            try get(proxy, "/vars/%41?q=1").text == "GET test /vars/%41?q=1 /vars/%41 q=1 http main /vars 127.0.0.1 $")
        let toHEAD = try proxy.connect()
        try toHEAD.ask("HEAD /text HTTP/1.1")
        #expect(try toHEAD.response(toHEAD: true)["Content-Length"] == "5")
        try toHEAD.ask("GET /none HTTP/1.1")
        #expect(try toHEAD.response().status == 204)
    }

    @Test func anUploadToARespondRouteIsReadAndTheConnectionGoesOn() throws {
        let proxy = try proxy("route / { respond 200 ok; }")
        let client = try proxy.connect()
        for _ in 0..<2 {
            try client.ask("POST / HTTP/1.1", "Content-Length: 5", content: "hello")
            #expect(try client.response().text == "ok")
            try client.ask("POST / HTTP/1.1", "Content-Length: 5")
            #expect(try client.response().text == "ok")
            try client.send("hello")
        }
    }

    @Test func responseEdits() throws {
        let proxy = try proxy(
            "set_response_field X-Level listener; route / { upstream a; set_response_field x-old new; "
                + "remove_response_field Server; add_response_field X-More \"$request_id $upstream\"; "
                + "set_response_field X-Level route; }")
        let response = try get(proxy, "/", host: "test", "X-Request-Id: id-1")
        #expect(response.all("X-Old") == ["new"])
        #expect(response["Server"] == nil)
        #expect(response["X-More"] == "id-1 a")
        #expect(response.all("X-Level") == ["route"])
    }

    @Test func requestEdits() throws {
        let seen = Handoff<Message>()
        let origin = Origin.serving { wire, request in
            seen.give(request)
            try wire.ok()
        }
        let proxy = try Headfirst(
            to: origin,
            route: "set_request_field Host inner.test; set_request_field X-Set \"$host $client_address\"; "
                + "add_request_field X-Add 1; remove_request_field Cookie; remove_request_field X-Forwarded-For; "
                + "set_request_field Via mine;")
        _ = try proxy.answer(
            to: head("GET / HTTP/1.1", "Host: outer", "x-set: a", "X-SET: b", "X-Add: 0", "Cookie: secret"))
        let request = try seen.take()
        #expect(request.all("Host") == ["inner.test"])
        #expect(request.all("X-Set") == ["outer 127.0.0.1"])
        #expect(request.all("X-Add") == ["0", "1"])
        #expect(request["Cookie"] == nil)
        #expect(request["X-Forwarded-For"] == nil)
        #expect(request["Via"] == "mine")
        #expect(request["X-Forwarded-Host"] == "outer")
    }

    @Test func whatAClientSendsCannotBreakOutOfAField() throws {
        let proxy = try proxy("route / { upstream a; set_response_field X-Echo \"$query\"; }")
        let response = try get(proxy, "/?a%0d%0aX-Evil:1")
        #expect(response["X-Echo"] == "a%0d%0aX-Evil:1")
        #expect(response["X-Evil"] == nil)
    }
}
