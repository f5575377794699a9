"""The behaviour probe with HTTP/2 on its client's sockets: the same cases, the same verdicts, and some that only HTTP/2 has.

    http2probe.py [--certificate FILE] <arguments of probe.py>

The probe itself is not touched: where its client asks `Client.tls` for a socket, it gets one that speaks HTTP/2 (by the
package h2 from PyPI) and looks like HTTP/1.1. What is written to it as HTTP/1.1 goes out as frames; what comes in frames is
read as HTTP/1.1, each head and each piece of content when it came. RST_STREAM is a reset, END_STREAM of a tunnel is its end,
shutdown(SHUT_WR) on a tunnel is END_STREAM. Whatever h2 calls an error of the proxy breaks the connection, and fails the case.

With --certificate the client speaks TLS, and ALPN has to choose h2. Cases whose names begin with `h` are here.
"""
import base64, hashlib, http, os, socket, ssl, sys, threading, time

import http2frames, tlsprobe

try:
    import h2.config, h2.connection, h2.events, h2.exceptions, h2.settings
    import hpack
    from hyperframe import frame as frames
except ImportError as error:
    print("error: the package h2 (PyPI) is needed: %s" % error, file=sys.stderr)
    sys.exit(2)

CHUNK_END, HEAD_END = b"\r\n", b"\r\n\r\n"
# What HTTP/2 does not have, by the prefixes of the cases' names.
LEFT_OUT = {
    "t04e": "HTTP/1.0", "i15": "HTTP/1.0", "d26": "HTTP/2 has no reason phrase", "d28": "names are lower-case",
    "d31a": "a request in HTTP/2 has no connection-specific fields", "s45": "the text of HTTP/1; see the cases that begin with h",
    "u35": "a 200 opens a tunnel in HTTP/2; see h-websocket-refused", "f24": "streams are not answered in order",
}


class HTTP2Socket:
    """What the probe needs of a socket, over HTTP/2. One thread may write while another reads."""

    def __init__(self, plain):
        self.plain, self.timeout = plain, 20
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False))
        self.lock, self.reading = threading.RLock(), threading.Lock()
        self.text, self.streams, self.by_id = bytearray(), [], {}
        self.failure, self.is_over = None, False
        self.conn.initiate_connection()
        self.conn.increment_flow_control_window(1 << 20)
        self.flush()

    def flush(self):
        data = self.conn.data_to_send()
        if data:
            self.plain.settimeout(20)
            self.plain.sendall(data)

    # Out.

    def sendall(self, data):
        with self.lock:
            self.text += data
        while self.step():
            pass

    def send(self, data):
        self.sendall(data)
        return len(data)

    def step(self):
        """Sends one part of what was written, if all of it is there."""
        stream = self.streams[-1] if self.streams else None
        if stream is None or stream["sent"]:
            end = self.text.find(HEAD_END)
            if end < 0:
                return False
            head = bytes(self.text[:end])
            del self.text[:end + 4]
            self.ask(head)
            return True
        if not self.text and stream["left"] != 0:
            return False
        if stream["framing"] == "tunnel":
            self.content(stream, self.take(len(self.text)))
        elif stream["framing"] == "length":
            piece = self.take(min(len(self.text), stream["left"]))
            stream["left"] -= len(piece)
            stream["sent"] = stream["left"] == 0
            self.content(stream, piece, ends=stream["sent"])
        else:
            return self.chunk(stream)
        return bool(self.text)

    def take(self, count):
        with self.lock:
            piece = bytes(self.text[:count])
            del self.text[:count]
            return piece

    def chunk(self, stream):
        end = self.text.find(CHUNK_END)
        if end < 0:
            return False
        size = int(bytes(self.text[:end]).split(b";")[0], 16)
        if size:
            if len(self.text) < end + 2 + size + 2:
                return False
            piece = self.take(end + 2 + size + 2)[end + 2:-2]
            self.content(stream, piece)
            return True
        tail = self.text.find(HEAD_END, end)
        if tail < 0:
            return False
        lines = self.take(tail + 4)[end + 2:-2].split(CHUNK_END)
        trailers = [field(line) for line in lines if line]
        stream["sent"] = True
        with self.lock:
            if trailers:
                self.conn.send_headers(stream["id"], trailers, end_stream=True)
            else:
                self.conn.end_stream(stream["id"])
            self.flush()
        return True

    def ask(self, head):
        line, *lines = head.split(CHUNK_END)
        method, target, _ = line.split(b" ", 2)
        fields = [field(l) for l in lines]
        known = dict(fields)
        stream = {"method": method, "framing": "none", "left": 0, "out": bytearray(), "is_over": False, "chunked": False,
                  "trailers": [], "failure": None, "sent": True, "key": known.get(b"sec-websocket-key", b"")}
        pseudo = [(b":method", method), (b":scheme", b"http"), (b":path", target), (b":authority", known.get(b"host", b""))]
        if method == b"CONNECT":
            stream["framing"] = "tunnel"
            pseudo = [(b":method", method), (b":authority", target)]
        elif b"upgrade" in known:
            stream["framing"], stream["protocol"] = "tunnel", known[b"upgrade"]
            pseudo = [(b":method", b"CONNECT"), (b":protocol", known[b"upgrade"])] + pseudo[1:]
        elif b"chunked" in known.get(b"transfer-encoding", b""):
            stream["framing"], stream["left"] = "chunked", -1
        elif known.get(b"content-length", b"0") != b"0":
            stream["framing"], stream["left"] = "length", int(known[b"content-length"])
        if stream["framing"] != "none":
            stream["sent"] = False
        if stream["framing"] == "tunnel":
            stream["left"] = -1
        drop = {b"host", b"connection", b"transfer-encoding", b"upgrade", b"keep-alive", b"proxy-connection", b"sec-websocket-key"}
        fields = [(n, v) for n, v in fields if n not in drop and (n != b"te" or v == b"trailers")]
        with self.lock:
            stream["id"] = self.conn.get_next_available_stream_id()
            self.streams.append(stream)
            self.by_id[stream["id"]] = stream
            self.conn.send_headers(stream["id"], pseudo + fields, end_stream=stream["framing"] == "none")
            self.flush()

    def content(self, stream, data, ends=False):
        deadline = time.monotonic() + 20
        while data or ends:
            with self.lock:
                if stream["failure"] or self.failure:
                    raise ConnectionResetError("the stream is gone")
                count = min(len(data), self.conn.local_flow_control_window(stream["id"]), self.conn.max_outbound_frame_size)
                if count or not data:
                    piece, data = data[:count], data[count:]
                    self.conn.send_data(stream["id"], piece, end_stream=ends and not data)
                    self.flush()
                    if not data:
                        return
                    continue
            if time.monotonic() > deadline:
                raise socket.timeout("no window")
            self.pump(0.05)

    # In.

    def pump(self, seconds):
        """Reads once, if something comes in time and nobody else reads."""
        if not self.reading.acquire(timeout=seconds):
            return
        try:
            self.plain.settimeout(max(seconds, 0.001))
            data = self.plain.recv(1 << 16)
        except (socket.timeout, ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError as error:
            self.failure = error
            return
        finally:
            self.reading.release()
        with self.lock:
            if not data:
                self.is_over = True
                return
            try:
                for event in self.conn.receive_data(data):
                    self.happened(event)
                self.flush()
            except h2.exceptions.ProtocolError as error:
                print("      the proxy breaks HTTP/2: %s" % error, flush=True)
                self.failure = ConnectionResetError("the proxy breaks HTTP/2: %s" % error)
            except OSError as error:
                self.failure = error

    def happened(self, event):
        stream = self.by_id.get(getattr(event, "stream_id", None))
        if stream is None:
            if isinstance(event, h2.events.ConnectionTerminated) and event.error_code:
                self.failure = ConnectionResetError("GOAWAY %s" % event.error_code)
            return
        if isinstance(event, h2.events.InformationalResponseReceived):
            stream["out"] += text(event.headers)
        elif isinstance(event, h2.events.ResponseReceived):
            self.answered(stream, event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if event.data:
                stream["out"] += b"%x\r\n%s\r\n" % (len(event.data), event.data) if stream["chunked"] else event.data
        elif isinstance(event, h2.events.TrailersReceived):
            stream["trailers"] = event.headers
        elif isinstance(event, h2.events.StreamEnded):
            if stream["chunked"]:
                stream["out"] += b"0\r\n" + lines(stream["trailers"]) + b"\r\n"
            stream["is_over"] = True
        elif isinstance(event, h2.events.StreamReset):
            if not stream["is_over"]:
                stream["failure"] = ConnectionResetError("RST_STREAM %s" % event.error_code)
            stream["sent"] = True

    def answered(self, stream, headers):
        status = dict(headers)[b":status"]
        if stream["framing"] == "tunnel" and status.startswith(b"2"):
            if "protocol" in stream:
                accept = base64.b64encode(hashlib.sha1(stream["key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
                extra = [(b"upgrade", stream["protocol"]), (b"connection", b"Upgrade"), (b"sec-websocket-accept", accept)]
                stream["out"] += text([(b":status", b"101")] + headers + extra)
            else:
                stream["out"] += text(headers)
            return
        if stream["framing"] == "tunnel":
            stream["sent"] = True                # refused: no bytes pass
        has_content = stream["method"] != b"HEAD" and status not in (b"204", b"304")
        stream["chunked"] = has_content and b"content-length" not in dict(headers)
        stream["out"] += text(headers + ([(b"transfer-encoding", b"chunked")] if stream["chunked"] else []))

    def recv(self, count):
        deadline = time.monotonic() + self.timeout
        while True:
            with self.lock:
                stream = next((s for s in self.streams if s["out"] or not s["is_over"] or s["failure"]), None)
                if stream and stream["out"]:
                    piece = bytes(stream["out"][:count])
                    del stream["out"][:count]
                    return piece
                if stream and stream["failure"]:
                    raise stream["failure"]
                if self.failure:
                    raise self.failure
                if self.is_over or any(s["is_over"] and s["framing"] == "tunnel" and not s["out"] for s in self.streams):
                    return b""
            left = deadline - time.monotonic()
            if left <= 0:
                raise socket.timeout()
            self.pump(min(left, 0.05))

    def recv_into(self, room):
        data = self.recv(len(room))
        room[:len(data)] = data
        return len(data)

    # The rest of a socket.

    def shutdown(self, how):
        stream = self.streams[-1] if self.streams else None
        if stream and stream["framing"] == "tunnel":
            with self.lock:
                self.conn.end_stream(stream["id"])
                self.flush()
        else:
            self.plain.shutdown(how)

    def close(self):
        self.plain.close()

    def setsockopt(self, *arguments):
        self.plain.setsockopt(*arguments)

    def settimeout(self, seconds):
        self.timeout = 3600 if seconds is None else seconds


def field(line):
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip(b" \t")


def lines(headers):
    return b"".join(b"%s: %s\r\n" % (n, v) for n, v in headers if not n.startswith(b":"))


def text(headers):
    status = int(next(v for n, v in headers if n == b":status"))
    reason = http.HTTPStatus(status).phrase if status in http.HTTPStatus._value2member_map_ else "Any"
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, reason.encode(), lines(headers))


class Wrapper:
    """Stands where the probe looks for an SSLContext."""

    def __init__(self, certificate):
        self.context = None
        if certificate:
            self.context = ssl.create_default_context(cafile=certificate)
            self.context.set_alpn_protocols(["h2"])

    def open(self, plain):
        if not self.context:
            return plain
        plain = tlsprobe.TLSSocket(plain, self.context, server_side=False)
        if plain.tls.selected_alpn_protocol() != "h2":
            raise ConnectionResetError("ALPN chose %s" % plain.tls.selected_alpn_protocol())
        return plain

    def wrap_socket(self, plain, **_):
        return HTTP2Socket(self.open(plain))


# ------------------------------------------------------------ cases of HTTP/2 alone

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"@"), (b":authority", b"probe.test")]
POST = [(b":method", b"POST")] + GET[1:]


def but(name, value):
    return [(n, value if n == name else v) for n, v in GET if not (n == name and value is None)]


# name: fields, DATA (None: END_STREAM with the head). What two parsers could read differently once it is HTTP/1.1.
REFUSED = {
    "connection": (GET + [(b"connection", b"close")], None), "keep-alive": (GET + [(b"keep-alive", b"x")], None),
    "proxy-connection": (GET + [(b"proxy-connection", b"close")], None), "upgrade": (GET + [(b"upgrade", b"x")], None),
    "transfer-encoding": (POST + [(b"transfer-encoding", b"chunked")], b"0\r\n\r\n"),
    "te-gzip": (GET + [(b"te", b"gzip")], None), "upper-case-name": (GET + [(b"X-Upper", b"1")], None),
    "name-space": (GET + [(b"x y", b"1")], None), "name-colon": (GET + [(b"x:y", b"1")], None),
    "name-crlf": (GET + [(b"x\r\ny", b"1")], None), "name-nul": (GET + [(b"x\0", b"1")], None), "name-empty": (GET + [(b"", b"1")], None),
    "value-crlf": (GET + [(b"x", b"a\r\nx-id: 1")], None), "value-lf": (GET + [(b"x", b"a\nb")], None),
    "value-cr": (GET + [(b"x", b"a\rb")], None), "value-nul": (GET + [(b"x", b"a\0b")], None),
    "path-space": (but(b":path", b"@ HTTP/1.1"), None), "path-crlf": (but(b":path", b"@\r\nx: y"), None),
    "path-empty": (but(b":path", b""), None), "path-relative": (but(b":path", b"p"), None), "path-fragment": (but(b":path", b"@#f"), None),
    "path-nul": (but(b":path", b"@\0"), None), "path-missing": (but(b":path", None), None), "path-star": (but(b":path", b"*"), None),
    "method-space": (but(b":method", b"GET /x"), None), "method-crlf": (but(b":method", b"GET\r\nx: y"), None),
    "method-empty": (but(b":method", b""), None), "method-missing": (but(b":method", None), None),
    "scheme-missing": (but(b":scheme", None), None), "authority-userinfo": (but(b":authority", b"u@probe.test"), None),
    "authority-space": (but(b":authority", b"probe test"), None), "authority-crlf": (but(b":authority", b"a\r\nb: c"), None),
    "authority-path": (but(b":authority", b"probe.test/x"), None), "authority-twice": (GET + [(b":authority", b"other")], None),
    "path-twice": (GET + [(b":path", b"/other")], None), "method-twice": (GET + [(b":method", b"POST")], None),
    "unknown-pseudo": (GET + [(b":other", b"1")], None), "status-in-request": (GET + [(b":status", b"200")], None),
    "pseudo-behind-field": (GET[:3] + [(b"x", b"y")] + GET[3:], None), "host-differs": (GET + [(b"host", b"other")], None),
    "no-authority": (but(b":authority", None), None), "host-twice": (GET[:3] + [(b"host", b"a"), (b"host", b"b")], None),
    "length-more": (POST + [(b"content-length", b"9")], b"abc"), "length-less": (POST + [(b"content-length", b"1")], b"abc"),
    "length-text": (POST + [(b"content-length", b"abc")], b"abc"), "length-plus": (POST + [(b"content-length", b"+3")], b"abc"),
    "length-list": (POST + [(b"content-length", b"3, 3")], b"abc"), "length-negative": (POST + [(b"content-length", b"-1")], b""),
    "lengths-differ": (POST + [(b"content-length", b"3"), (b"content-length", b"4")], b"abc"),
    "length-without-content": (POST + [(b"content-length", b"3")], None), "lookalike": (GET + [(b"content_length", b"3")], None),
}


class Frames:
    """A connection that sends what nobody honest would, and tells what becomes of a stream."""

    def __init__(self, probe, p):
        plain = socket.create_connection(p.proxy, 5)
        self.s = probe.Client.tls.open(plain)
        self.encoder, self.decoder, self.buffer = hpack.Encoder(), hpack.Decoder(), b""
        self.s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames.SettingsFrame(0).serialize())

    def send(self, *several):
        self.s.sendall(b"".join(f.serialize() for f in several))

    def head(self, fields, stream=1, ends=True):
        f = frames.HeadersFrame(stream, self.encoder.encode(fields, huffman=False))
        f.flags |= {"END_HEADERS"} | ({"END_STREAM"} if ends else set())
        return f

    def next(self, seconds):
        """The next frame, or None; ends with EOFError."""
        deadline = time.monotonic() + seconds
        while True:
            if len(self.buffer) >= 9:
                f, length = frames.Frame.parse_frame_header(memoryview(self.buffer[:9]))
                if len(self.buffer) >= 9 + length:
                    f.parse_body(memoryview(self.buffer[9:9 + length]))
                    self.buffer = self.buffer[9 + length:]
                    if isinstance(f, frames.SettingsFrame) and "ACK" not in f.flags:
                        ack = frames.SettingsFrame(0)
                        ack.flags.add("ACK")
                        self.send(ack)
                    return f
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.s.settimeout(left)
            try:
                data = self.s.recv(1 << 16)
            except socket.timeout:
                return None
            except OSError:
                raise EOFError
            if not data:
                raise EOFError
            self.buffer += data

    def outcome(self, stream=1, seconds=2):
        """`reset CODE`, `goaway CODE`, a status, `closed` or `nothing`."""
        try:
            while True:
                f = self.next(seconds)
                if f is None:
                    return "nothing"
                if isinstance(f, frames.GoAwayFrame):
                    return "goaway %d" % f.error_code
                if f.stream_id == stream and isinstance(f, frames.RstStreamFrame):
                    return "reset %d" % f.error_code
                if f.stream_id == stream and isinstance(f, frames.HeadersFrame):
                    return dict(self.decoder.decode(f.data, raw=True))[b":status"].decode()
        except EOFError:
            return "closed"

    def drain(self, seconds):
        """Takes whatever comes for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.next(left)

    def judge(self, good):
        """What comes of frames that may be an error, on any stream; `ignored` if a request behind them is answered."""
        answered = None
        try:
            while True:
                f = self.next(1.5)
                if f is None:
                    return answered or "nothing"
                if isinstance(f, frames.GoAwayFrame):
                    return "goaway %d" % f.error_code
                if isinstance(f, frames.RstStreamFrame) and f.error_code:
                    return "reset %d" % f.error_code
                if isinstance(f, frames.HeadersFrame) and f.stream_id == 3 and "ignored" in good:
                    return "ignored"
                if isinstance(f, frames.HeadersFrame) and f.stream_id == 1:
                    answered = dict(self.decoder.decode(f.data, raw=True))[b":status"].decode()
                    if answered in good:
                        return answered
        except EOFError:
            return "closed"

    def close(self):
        self.s.close()


def add_cases(probe):
    case, PASS, FAIL = probe.case, probe.PASS, probe.FAIL

    def leaks(p, fields, data):
        path, n = p.arm(lambda x: (x.notes.put("seen", x.msg.start), x.ok())[1])
        c = Frames(probe, p)
        fields = [(name, value.replace(b"@", path.encode())) for name, value in fields]
        fields.append((b"x-id", path[3:].encode()))
        sent = [c.head(fields, ends=data is None)]
        if data is not None:
            f = frames.DataFrame(1, data)
            f.flags.add("END_STREAM")
            sent.append(f)
        c.send(*sent)
        outcome = c.outcome()
        seen = n.get("seen", 0.1)
        c.close()
        return outcome, seen

    for name, (fields, data) in REFUSED.items():
        def refused(p, fields=fields, data=data):
            outcome, seen = leaks(p, fields, data)
            good = outcome in ("reset 1", "400", "goaway 1", "closed")
            # Of content that is not as long as declared the head may have gone up; an answer may not come of it.
            may_see = data is not None and outcome == "reset 1"
            return PASS if good and (not seen or may_see) else FAIL, outcome + (", the origin sees %s" % seen if seen else "")
        case("h-refused-" + name)(refused)

    @case("h-self-test")
    def _(p):
        """What is well-formed passes by the same way: a refusal is not the answer to everything."""
        outcome, seen = leaks(p, GET + [(b"te", b"trailers"), (b"host", b"probe.test")], None)
        other, also = leaks(p, POST + [(b"content-length", b"3")], b"abc")
        return PASS if (outcome, other) == ("200", "200") and seen and also else FAIL, "%s %s" % (outcome, other)

    @case("h-cookie-crumbs")
    def _(p):
        path, n = p.arm(lambda x: (x.notes.put("cookie", x.msg.all("Cookie")), x.ok())[1])
        c = Frames(probe, p)
        c.send(c.head(but(b":path", path.encode()) + [(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x", b"y"), (b"cookie", b"c=3")]))
        outcome, cookie = c.outcome(), n.get("cookie")
        return PASS if outcome == "200" and cookie == ["a=1; b=2; c=3"] else FAIL, "%s %s" % (outcome, cookie)

    @case("h-settings")
    def _(p):
        c = Frames(probe, p)
        while not isinstance(f := c.next(2), frames.SettingsFrame):
            pass
        told = {int(k): v for k, v in f.settings.items()}
        good = told.get(8) == 1 and told.get(3, 1 << 31) <= 1000 and told.get(6, 0) > 0
        return PASS if good else FAIL, str(told)

    @case("h-101-streams-at-once")
    def _(p):
        path, _ = p.arm(lambda x: (x.w.drain(1), x.ok())[1])
        c = Frames(probe, p)
        c.send(*[c.head(but(b":path", path.encode()), stream=1 + 2 * i) for i in range(101)])
        outcome = c.outcome(stream=201)
        return PASS if outcome in ("reset 7", "reset 1") else FAIL, outcome

    @case("h-cancel-ends-the-origins-work")
    def _(p):
        def script(x):
            x.send(probe.OKCH)
            x.notes.put("gone", x.w.wait_eof(3))
        path, n = p.arm(script)
        c = Frames(probe, p)
        c.send(c.head(but(b":path", path.encode())))
        outcome = c.outcome()
        c.send(frames.RstStreamFrame(1, error_code=8))
        gone = n.get("gone")
        other, _ = p.arm(lambda x: x.ok())
        c.send(c.head(but(b":path", other.encode()), stream=3))
        after = c.outcome(stream=3)
        good = outcome == after == "200" and gone is not None and gone < 1
        return PASS if good else FAIL, "%s, origin's end %s, next stream %s" % (outcome, gone, after)

    @case("h-stalled-stream-holds-up-nobody")
    def _(p):
        big, _ = p.arm(lambda x: x.ok("x" * (4 << 20)))
        small, _ = p.arm(lambda x: x.ok())
        c = Frames(probe, p)
        # The connection's window is no bound here, the stream's is: 64 KiB, and never more.
        c.send(frames.WindowUpdateFrame(0, window_increment=1 << 28), c.head(but(b":path", big.encode())))
        first, t0, worst = c.outcome(), time.monotonic(), 0
        for number in range(1, 21):
            t0 = time.monotonic()
            c.send(c.head(but(b":path", small.encode()), stream=1 + 2 * number))
            if c.outcome(stream=1 + 2 * number) != "200":
                return FAIL, "stream %d is not answered" % (1 + 2 * number)
            worst = max(worst, time.monotonic() - t0)
        return PASS if first == "200" and worst < probe.LIMIT else FAIL, "the slowest of 20 after %.1f ms" % (worst * 1e3)

    def downloads(p, fields, size=1 << 20, waits=False):
        """Two downloads on one connection; (stream, bytes) of the DATA frames, in order, until one ends.

        waits: until their origins have given all of it away, so that none that is slow makes room for the other.
        """
        path, notes = p.arm(lambda x: (x.ok("x" * size), x.notes.put("sent", size)))
        c = Frames(probe, p)
        c.send(frames.SettingsFrame(0, settings={4: (1 << 31) - 1}),
               *[c.head(but(b":path", path.encode()) + extra, stream=stream) for stream, extra in zip((1, 3), fields)])
        order, heads = [], set()
        while True:
            f = c.next(10)
            if f is None:
                return order
            if isinstance(f, frames.HeadersFrame):
                heads.add(f.stream_id)
                # Until both are under way the connection's window lets little through.
                if len(heads) == 2:
                    until = time.monotonic() + (3 if waits else 0.2)
                    while time.monotonic() < until and not (waits and len(notes.all("sent")) == 2):
                        time.sleep(0.01)
                    # When it answers, the proxy has seen what was there before.
                    c.send(frames.PingFrame(0, opaque_data=b"12345678"))
            if isinstance(f, frames.PingFrame):
                c.send(frames.WindowUpdateFrame(0, window_increment=1 << 30))
            if isinstance(f, frames.DataFrame):
                order.append((f.stream_id, len(f.data)))
                if "END_STREAM" in f.flags:
                    return order

    @case("h-equal-streams-take-turns")
    def _(p):
        order = downloads(p, [[], []])
        last = order[-1][0]
        other = sum(stream != last for stream, _ in order)
        return PASS if other > 20 else FAIL, "when one has ended, the other has had %d frames" % other

    @case("h-urgent-overtakes")
    def _(p):
        # As much as the proxy and the kernel on its side hold: where more has to come, the other one fills the gap.
        order = downloads(p, [[(b"priority", b"u=7")], [(b"priority", b"u=0")]], 100 << 10, True)
        # What the connection's first window let through went to whoever was first; a frame may fill the rest of a write.
        last, other = order[-1][0], sum(count for stream, count in order if stream == 1)
        passes = last == 3 and other <= 65_535 + 16_384
        return PASS if passes else FAIL, "stream %d ends first, the other has had %d bytes" % (last, other)

    @case("h-ping-during-a-download")
    def _(p):
        path, _ = p.arm(lambda x: x.ok("x" * (4 << 20)))
        c = Frames(probe, p)
        c.send(c.head(but(b":path", path.encode())))
        c.outcome()
        t0 = time.monotonic()
        c.send(frames.PingFrame(0, opaque_data=b"12345678"))
        while (f := c.next(2)) and not isinstance(f, frames.PingFrame):
            pass
        took = time.monotonic() - t0
        return PASS if f and f.opaque_data == b"12345678" and took < probe.LIMIT else FAIL, "after %.1f ms" % (took * 1e3)

    @case("h-websocket-refused")
    def _(p):
        """A refusal is an ordinary answer; a success without a 101 would be taken for a tunnel."""
        seen = []
        for answer in ("403 Forbidden", "200 OK"):
            path, _ = p.arm(lambda x: (x.send("HTTP/1.1 %s\r\nContent-Length: 2\r\n\r\nno" % answer), True)[1])
            c = Frames(probe, p)
            ask = [(b":method", b"CONNECT"), (b":protocol", b"websocket")] + but(b":path", path.encode())[1:]
            c.send(c.head(ask + [(b"sec-websocket-version", b"13")], ends=False))
            seen.append(c.outcome())
        return PASS if seen == ["403", "502"] else FAIL, " ".join(seen)

    @case("h-continuation")
    def _(p):
        path, n = p.arm(lambda x: (x.notes.put("count", sum(k.startswith("x-n") for k, _ in x.msg.headers)), x.ok())[1])
        c = Frames(probe, p)
        block = c.encoder.encode(but(b":path", path.encode()) + [(b"x-n%d" % i, b"v" * 300) for i in range(90)], huffman=False)
        first = frames.HeadersFrame(1, block[:9000])
        first.flags.add("END_STREAM")
        rest = [frames.ContinuationFrame(1, block[i:i + 9000]) for i in range(9000, len(block), 9000)]
        rest[-1].flags.add("END_HEADERS")
        c.send(first, *rest)
        outcome, count = c.outcome(), n.get("count")
        return PASS if outcome == "200" and count == 90 else FAIL, "%s with %s fields" % (outcome, count)

    @case("h-too-long")
    def _(p):
        path, _ = p.arm(lambda x: x.ok())
        seen = []
        for fields in ([(b"x", b"v" * 15000), (b"y", b"v" * 15000), (b"z", b"v" * 15000)], [(b"x%d" % i, b"1") for i in range(130)]):
            c = Frames(probe, p)
            block = c.encoder.encode(but(b":path", path.encode()) + fields, huffman=False)
            pieces = [block[i:i + 16000] for i in range(0, len(block), 16000)]
            first = frames.HeadersFrame(1, pieces[0])
            first.flags.add("END_STREAM")
            rest = [frames.ContinuationFrame(1, piece) for piece in pieces[1:]]
            (rest or [first])[-1].flags.add("END_HEADERS")
            c.send(first, *rest)
            seen.append(c.outcome())
        c = Frames(probe, p)
        c.send(c.head(but(b":path", b"/" + b"p" * 9000)))
        seen.append(c.outcome())
        return PASS if seen == ["431", "431", "414"] else FAIL, " ".join(seen)

    @case("h-http1-on-the-same-port")
    def _(p):
        plain = socket.create_connection(p.proxy, 5)
        if probe.Client.tls.context:
            context = ssl.create_default_context(cafile=CERTIFICATE)
            context.set_alpn_protocols(["http/1.1"])
            plain = context.wrap_socket(plain, server_hostname="localhost")
        plain.sendall(b"GET / HTTP/1.1\r\nHost: probe.test\r\nConnection: close\r\n\r\n")
        answer = plain.recv(1 << 16)
        return PASS if answer.startswith(b"HTTP/1.1 200 ") else FAIL, repr(answer[:30])


CERTIFICATE = None


def main():
    global CERTIFICATE
    arguments = sys.argv[1:]
    if arguments[:1] == ["--certificate"]:
        CERTIFICATE, arguments = arguments[1], arguments[2:]
    probe = tlsprobe.load_probe()
    probe.Client.tls = Wrapper(CERTIFICATE)
    add_cases(probe)
    http2frames.add_cases(probe, lambda p: Frames(probe, p))
    # The last one takes the origin away.
    probe.CASES.sort(key=lambda c: c[0].startswith("x41"))
    for name, reason in LEFT_OUT.items():
        print("not in HTTP/2: %s: %s" % (name, reason), flush=True)
    sys.argv = [probe.__file__] + arguments + ["--skip", ",".join(LEFT_OUT)]
    return probe.main()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)                              # the probe's threads do not end by themselves
