"""Chromium through a TLS listener of Headfirst: streams, a WebSocket and early hints, all by HTTP/2.

    HEADFIRST_BINARY=PATH scripts/measure/h2browser.py [--chromium PATH]

streams    50 EventSource at once on one connection, where HTTP/1.1 allows six; each gets its events
websocket  a WebSocket on that same connection (RFC 8441), to an origin that knows HTTP/1.1 alone: text, binary of
           100,000 bytes, and its close
hints      a page whose origin sends 103 and, a second later, the page: what the 103 names is asked for at once
uploads    a fetch whose content is larger than every window, and whose answer tells its sum
cancelled  200 fetches that are given up at once: the connection lives on

Exit status 1 if one fails, 2 if it cannot be run. chromium is Debian's package of that name.
"""
import argparse, base64, hashlib, json, os, shlex, socket, socketserver, struct, subprocess, sys, threading, time

import http2, peers, statuspage, streamload

STREAMS, EVENTS = 50, 5
HINT_SECONDS = 1.0
UPLOAD = 8 << 20
CANCELLED = 200

PAGE = """<!doctype html><title>streams</title><script>
const counts = Array(%d).fill(0), sources = []
for (let at = 0; at < counts.length; at++) {
    const source = new EventSource("/events?at=" + at)
    source.onmessage = () => counts[at]++
    source.onerror = () => counts[at] = -1e9
    sources.push(source)
}
</script>""" % STREAMS

SOCKET = """new Promise((resolve, reject) => {
    const socket = new WebSocket("wss://" + location.host + "/socket"), found = {}
    socket.binaryType = "arraybuffer"
    socket.onopen = () => socket.send("hello")
    socket.onmessage = event => {
        if (typeof event.data === "string") {
            found.text = event.data
            socket.send(new Uint8Array(100000).fill(7))
        } else {
            found.bytes = event.data.byteLength
            found.right = new Uint8Array(event.data).every(byte => byte === 7)
            socket.close(1000, "done")
        }
    }
    socket.onclose = event => { found.code = event.code; found.clean = event.wasClean; resolve(found) }
    setTimeout(() => { found.late = true; resolve(found) }, 8000)
})"""

HINTED = """<!doctype html><title>hinted</title><link rel="stylesheet" href="/style.css?hinted"><p>hello"""

TIMING = """(() => {
    const page = performance.getEntriesByType("navigation")[0]
    const style = performance.getEntriesByType("resource").find(entry => entry.name.includes("style.css"))
    return {
        page: page && {requested: Math.round(page.requestStart), interim: Math.round(page.firstInterimResponseStart),
                       head: Math.round(page.finalResponseHeadersStart), protocol: page.nextHopProtocol},
        style: style && {by: style.initiatorType, protocol: style.nextHopProtocol},
    }
})()"""

FETCHES = """(async () => {
    const before = performance.now()
    const all = Array.from({length: %d}, (_, at) => {
        const controller = new AbortController()
        const promise = fetch("/slow?" + at, {signal: controller.signal}).catch(error => error.name)
        setTimeout(() => controller.abort(), 20)
        return promise
    })
    const names = await Promise.all(all)
    const after = await fetch("/style.css?after").then(answer => answer.status)
    return {cancelled: names.filter(name => name === "AbortError").length, after}
})()""" % CANCELLED

UPLOADS = """fetch("/sum", {method: "POST", body: new Uint8Array(%d).fill(3)}).then(answer => answer.text())""" % UPLOAD


# The origin, by HTTP/1.1

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        try:
            while self.one():
                pass
        except OSError:
            pass

    def more(self):
        data = self.request.recv(65536)
        self.received += data
        return data

    def one(self):
        while b"\r\n\r\n" not in self.received:
            if not self.more():
                return False
        first, _, self.received = self.received.partition(b"\r\n\r\n")
        path = first.split(b" ", 2)[1].decode()
        fields = {name.strip().lower(): value.strip() for name, _, value in (
            line.partition(":") for line in first.decode("latin-1").split("\r\n")[1:])}
        self.server.arrivals.append((path, time.monotonic(), fields))
        at = path.partition("?")[0]
        handler = {"/": self.page, "/events": self.events, "/socket": self.socket, "/hinted": self.hinted,
                   "/sum": self.sum, "/slow": self.slow}.get(at)
        return handler(fields) if handler else self.answer(b"p { color: green }", b"text/css", b"max-age=60")

    def answer(self, content, kind=b"text/html", cache=b"no-store"):
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: %s\r\n\r\n%s" % (
            kind, len(content), cache, content))
        return True

    def page(self, _):
        return self.answer(PAGE.encode())

    def hinted(self, _):
        self.request.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css?hinted>; rel=preload; as=style\r\n\r\n")
        time.sleep(HINT_SECONDS)
        return self.answer(HINTED.encode())

    def events(self, _):
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            self.request.sendall(b"9\r\ndata: x\n\n\r\n")
            time.sleep(0.3)

    def slow(self, _):
        time.sleep(0.5)
        return self.answer(b"slow", b"text/plain")

    def sum(self, fields):
        total, left = 0, int(fields.get("content-length", 0))
        while left:
            data = self.received or self.more()
            if not data:
                return False
            data, self.received = self.received[:left], self.received[left:]
            total, left = total + sum(data), left - len(data)
        return self.answer(b"%d" % total, b"text/plain")

    # RFC 6455, as much of it as a browser needs

    def exactly(self, count):
        while len(self.received) < count:
            if not self.more():
                raise ConnectionError
        data, self.received = self.received[:count], self.received[count:]
        return data

    def socket(self, fields):
        key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.request.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s"
            b"\r\n\r\n" % base64.b64encode(hashlib.sha1(key.encode()).digest()))
        message = b""
        while True:
            first, second = self.exactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(self.exactly(2 if length == 126 else 8), "big")
            mask = self.exactly(4)
            content = bytes(a ^ b for a, b in zip(self.exactly(length), mask * (length // 4 + 1)))
            if first & 0xF == 8:
                self.request.sendall(bytes((0x88, length)) + content)
                return False
            message, kind = message + content, first & 0xF or kind
            if first & 0x80:
                size = bytes((len(message),)) if len(message) < 126 else (
                    struct.pack(">BH", 126, len(message)) if len(message) < 65536 else struct.pack(">BQ", 127, len(message)))
                self.request.sendall(bytes((0x80 | kind,)) + size + message)
                message = b""


class Server(socketserver.ThreadingTCPServer):
    daemon_threads, request_queue_size, allow_reuse_address = True, 1024, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.arrivals, self.port = [], self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def arrived(self, part):
        return [(at, fields) for path, at, fields in self.arrivals if part in path]


# The proxy and the browser

class Proxy(http2.Headfirst):
    metrics, total = streamload.Proxy.metrics, streamload.Proxy.total

    def browser(self, chromium):
        """A program that is Chromium to which the certificate is as good as any: with an error, it would keep nothing."""
        command = "openssl x509 -in %s -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary"
        command %= shlex.quote(self.path("site.pem"))
        key = subprocess.run(command, shell=True, check=True, capture_output=True).stdout
        path = self.path("chromium", '#!/bin/sh\nexec %s --ignore-certificate-errors-spki-list=%s "$@"\n' % (
            shlex.quote(chromium), base64.b64encode(key).decode()))
        os.chmod(path, 0o700)
        return path

    def downstream(self):
        return int(self.metrics()['headfirst_connections{side="downstream"}'])


class Page:
    def __init__(self, browser):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            browser.call(domain + ".enable", self.session)

    def open(self, url):
        failed = self.browser.call("Page.navigate", self.session, url=url).get("errorText")
        if failed:
            raise peers.CannotStart("the page cannot be opened: " + failed)

    def value(self, expression):
        found = self.browser.call("Runtime.evaluate", self.session, expression=expression, returnByValue=True,
                                  awaitPromise=True)
        if "exceptionDetails" in found:                 # the page is not there yet, or it failed
            return None
        return found["result"].get("value")

    def wait(self, expression, seconds):
        deadline = time.monotonic() + seconds
        while not (found := self.value(expression)) and time.monotonic() < deadline:
            self.browser.watch(0.1)
        return found

    def protocols(self, part):
        """Those that answers came by whose address has this in it."""
        return {event["params"]["response"].get("protocol") for event in self.browser.events
                if event["method"] == "Network.responseReceived" and part in event["params"]["response"]["url"]}


def measures(chromium):
    with Server() as origin, Proxy(origin.port) as proxy, statuspage.Browser(
            proxy.browser(chromium)) as browser:
        address = "https://localhost:%d" % proxy.port
        page = Page(browser)
        page.open(address + "/")
        page.wait("counts.every(count => count >= %d)" % EVENTS, 15)
        counts = page.value("counts") or []
        browser.watch(0.1)
        yield len(counts) == STREAMS and min(counts) >= EVENTS, "streams    %d of %d EventSource have had %d events" % (
            sum(count >= EVENTS for count in counts), STREAMS, EVENTS)
        yield page.protocols("/events") == {"h2"} and len(origin.arrived("/events")) == STREAMS, (
            "streams    the browser says that they came by %s; the origin was asked %d times" % (
                page.protocols("/events"), len(origin.arrived("/events"))))
        connections, streams = proxy.downstream(), proxy.total("headfirst_streams")
        yield connections == 1 and streams == STREAMS, "streams    %d streams on %d connection(s)" % (streams, connections)

        found = page.value(SOCKET)
        yield found == {"text": "hello", "bytes": 100000, "right": True, "code": 1000, "clean": True}, (
            "websocket  echoes and closes as it should: %s" % json.dumps(found))
        asked = origin.arrived("/socket")
        yield len(asked) == 1 and asked[0][1].get("upgrade") == "websocket" and proxy.downstream() == 1, (
            "websocket  its origin was asked by `Upgrade: %s`; still %d connection(s) to the proxy" % (
                asked[0][1].get("upgrade") if asked else None, proxy.downstream()))

        browser.call("Network.disable", page.session)           # an upload would come through the pipe, too
        total = page.value(UPLOADS)
        yield total == str(3 * UPLOAD), "uploads    %d MiB arrive whole beside the streams: %s" % (UPLOAD >> 20, total)
        found = page.value(FETCHES)
        yield found == {"cancelled": CANCELLED, "after": 200} and proxy.downstream() == 1, (
            "cancelled  %s; %d connection(s)" % (json.dumps(found), proxy.downstream()))
        more = page.value("counts")
        yield len(more) == STREAMS and all(one > other for one, other in zip(more, counts)) and len(
            origin.arrived("/events")) == STREAMS, (
                "streams    all live on meanwhile: %d events each at the least" % min(more))

        page.open("about:blank")
        deadline = time.monotonic() + 3
        while proxy.total("headfirst_exchanges") and time.monotonic() < deadline:
            time.sleep(0.05)
        yield not proxy.total("headfirst_exchanges"), "streams    the page left, %d exchanges are left" % (
            proxy.total("headfirst_exchanges"))

        page.open(address + "/hinted")
        page.wait("document.readyState === 'complete' && document.title", 10)
        timing = page.value(TIMING) or {}
        asked, styled = origin.arrived("/hinted"), origin.arrived("/style.css?hinted")
        after = styled[0][0] - asked[0][0] if asked and styled else float("inf")
        yield after < HINT_SECONDS / 2 and len(styled) == 1, (
            "hints      what the 103 names is asked for %d time(s), %.0f ms after the page, whose head goes %.0f ms after" % (
                len(styled), after * 1e3, HINT_SECONDS * 1e3))
        page_told, style_told = timing.get("page") or {}, timing.get("style") or {}
        yield style_told.get("by") == "early-hints" and page_told.get("protocol") == style_told.get("protocol") == "h2" and (
            0 < page_told.get("interim", -1) < page_told["head"] - HINT_SECONDS * 500), (
            "hints      the browser tells (ms): %s" % json.dumps(timing))
        yield proxy.is_alive() and not proxy.output(), "the proxy lives and says nothing: %s" % proxy.output()[:200]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    failures = 0
    try:
        if not os.access(os.environ.get("HEADFIRST_BINARY", ""), os.X_OK):
            raise peers.CannotStart("HEADFIRST_BINARY names no program")
        if not os.access(arguments.chromium, os.X_OK):
            raise peers.CannotStart("%s is not here; install the package chromium" % arguments.chromium)
        for passed, text in measures(arguments.chromium):
            failures += not passed
            print("%s %s" % ("PASS" if passed else "FAIL", text), flush=True)
    except (peers.CannotStart, OSError, EOFError, RuntimeError, TimeoutError) as error:
        print("error: %s" % error, file=sys.stderr)
        return 2
    print("browser: %s" % ("%d FAILED" % failures if failures else "passed"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
