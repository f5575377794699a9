"""HTTP/2 for the measures: frames by hand, a client of one connection, and the proxies with HTTP/2 over TLS.

A frame is bytes here, so that what no library would send can be sent. Fields are literals that no table keeps, and of
an answer's fields only its status is read.
"""
import ssl, struct, time

import latency, peers, tls

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 16
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, STREAMS_MAX, INITIAL_WINDOW, FRAME_SIZE_MAX = 1, 2, 3, 4, 5
WINDOW_MAX = (1 << 31) - 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CODES = ("NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
         "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY "
         "HTTP_1_1_REQUIRED").split()
CALM = CODES.index("ENHANCE_YOUR_CALM")


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def integer(value, bits, pattern=0):
    """RFC 7541 section 5.1: a number behind the `pattern` of its first byte, `bits` of which are its own."""
    top = (1 << bits) - 1
    if value < top:
        return bytes((pattern | value,))
    value -= top
    found = bytearray((pattern | top,))
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def field(name, value, pattern=0x00):
    """A literal; no table keeps it, unless the pattern is 0x40."""
    name, value = name.encode(), value.encode() if isinstance(value, str) else value
    return bytes((pattern,)) + integer(len(name), 7) + name + integer(len(value), 7) + value


def head(path, method="GET", *more, scheme="https"):
    """The fields of a request. more: (name, value)."""
    known = {"GET": b"\x82", "POST": b"\x83"}
    fields = known.get(method) or field(":method", method)
    fields += b"\x87" if scheme == "https" else b"\x86"
    fields += field(":authority", "localhost")
    fields += field(":path", path)
    return fields + b"".join(field(*one) for one in more)


def headers(stream, block, flags=END_HEADERS | END_STREAM):
    return frame(HEADERS, flags, stream, block)


def get(stream, path="/small"):
    return headers(stream, head(path))


def settings(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream, step):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", step))


def reset(stream, code=8):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


DIGITS = {**{(5, n): str(n) for n in range(3)}, **{(6, 0x16 + n): str(n) for n in range(3, 10)}}


def status_in(block):
    """The status that a block of fields begins with; None if it is not to be read without a table."""
    at = 0
    while block[at] & 0xE0 == 0x20:                                         # a new size of the table
        more, at = block[at] & 0x1F == 0x1F, at + 1
        while more:
            more, at = block[at] & 0x80, at + 1
    if block[at] & 0x80:
        return {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}.get(block[at] & 0x7F)
    if not 8 <= block[at] & (0x3F if block[at] & 0x40 else 0x0F) <= 14:
        return None
    value = block[at + 2:at + 2 + (block[at + 1] & 0x7F)]
    if not block[at + 1] & 0x80:
        return int(value)
    bits, text = "".join(format(byte, "08b") for byte in value), ""
    while bits and len(text) < 3:
        for length in (5, 6):
            digit = DIGITS.get((length, int(bits[:length], 2)))
            if digit is not None:
                text, bits = text + digit, bits[length:]
                break
        else:
            return None
    return int(text)


class Failed(Exception):
    pass


class Client:
    """One connection. What comes is told to `on_frame`; SETTINGS and PING are answered while it is read."""

    def __init__(self, port, secure=True, more=b"", window=WINDOW_MAX):
        """more: sent behind the preface in the place of empty SETTINGS. window: of the connection."""
        self.socket = latency.plain_connection(port)
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
            if self.socket.selected_alpn_protocol() != "h2":
                raise peers.CannotStart("the proxy does not speak HTTP/2")
        self.received, self.next_stream = b"", 1
        self.end = None                     # (when, how) the connection was brought to its end
        self.answers, self.over = True, 0   # whether frames are acknowledged; how many streams the other side has ended
        self.settings = {}
        first = PREFACE + (more or settings())
        self.send(first + (window_update(0, window - 65535) if window > 65535 else b""))

    def stream(self):
        self.next_stream += 2
        return self.next_stream - 2

    def send(self, data):
        self.socket.sendall(data)

    def ended(self, how):
        if not self.end:
            self.end = time.monotonic(), how

    def read(self, seconds):
        """The frames that come within so many seconds, without waiting for more than the first bytes of them."""
        data, end = b"", None
        try:
            self.socket.settimeout(seconds)
            # One record at a time, of TLS; more may be there.
            while more := self.socket.recv(262144):
                data += more
                if not isinstance(self.socket, ssl.SSLSocket) or len(data) >= 262144:
                    break
                self.socket.settimeout(0)
            else:
                end = "closed"
        except (ssl.SSLWantReadError, BlockingIOError, TimeoutError):
            pass
        except OSError as error:
            end = "reset" if isinstance(error, ConnectionError) else str(error)
        finally:
            self.socket.settimeout(10)
        self.received += data
        frames = list(self.frames())
        if end:
            self.ended(end)
        return frames

    def frames(self):
        at, received = 0, self.received
        while len(received) - at >= 9:
            word, flags, stream = struct.unpack_from(">IBI", received, at)
            length, kind = word >> 8, word & 0xFF
            if len(received) - at - 9 < length:
                break
            payload = received[at + 9:at + 9 + length]
            at += 9 + length
            self.over += kind == RST_STREAM or kind in (DATA, HEADERS) and flags & END_STREAM
            self.look(kind, flags, payload)
            yield kind, flags, stream & WINDOW_MAX, payload
        self.received = received[at:]

    def look(self, kind, flags, payload):
        if kind == SETTINGS and not flags & ACK:
            self.settings.update(struct.iter_unpack(">HI", payload))
            self.answer(frame(SETTINGS, ACK))
        elif kind == PING and not flags & ACK:
            self.answer(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            code = struct.unpack_from(">I", payload, 4)[0]
            if code:
                self.ended("GOAWAY %s" % (CODES[code] if code < len(CODES) else code))

    def greet(self, seconds=5):
        """Reads the other side's SETTINGS and acknowledges them."""
        deadline = time.monotonic() + seconds
        while not self.settings and not self.end and time.monotonic() < deadline:
            self.read(0.05)

    def answer(self, data):
        if not self.answers:
            return
        try:
            self.send(data)
        except OSError:
            self.ended("reset")

    def ask(self, path="/small", seconds=10):
        """The content of an answer, its window given back at once; the connection is otherwise idle."""
        stream, content, deadline = self.stream(), [], time.monotonic() + seconds
        self.send(get(stream, path))
        while True:
            for kind, flags, number, payload in self.read(max(0.001, deadline - time.monotonic())):
                if number != stream:
                    continue
                if kind == HEADERS and status_in(payload) != 200:
                    raise Failed("answered with %s" % status_in(payload))
                if kind == RST_STREAM:
                    raise Failed("reset with %s" % CODES[payload[3]])
                if kind == DATA:
                    content.append(payload)
                    if payload:
                        self.send(window_update(stream, len(payload)) * (not flags & END_STREAM)
                                  + window_update(0, len(payload)))
                if flags & END_STREAM and kind in (DATA, HEADERS):
                    return b"".join(content)
            if self.end or time.monotonic() > deadline:
                raise Failed("%s before the answer's end" % (self.end[1] if self.end else "silence"))

    def close(self):
        self.socket.close()


# The proxies

class Headfirst(tls.Headfirst):
    """With an admin listener, so that it can be asked for its figures; `clear` adds a port that speaks it in clear."""

    def command(self):
        self.admin, self.clear_port = peers.free_port(), peers.free_port()
        self.extra = "admin { bind 127.0.0.1:%d; }\ndrain_delay 0s; shutdown_grace 1s;\n%s" % (
            self.admin, type(self).extra)
        self.listener_extra = "bind 127.0.0.1:%d; http2 on;\n    %s" % (
            self.clear_port, type(self).listener_extra)
        return super().command()

    def wait_until_it_listens(self):
        secure, listens = self.port, True
        for self.port in (self.clear_port, secure):
            listens = listens and super().wait_until_it_listens()
        return listens


class Nginx(tls.Nginx):
    def command(self):
        command = super().command()
        tls.replace(self.path("nginx.conf"), "ssl backlog=4096;", "ssl http2 backlog=4096;")
        return command


class HAProxy(tls.HAProxy):
    def command(self):
        command = super().command()
        crt = "crt %s" % self.path("site.both")
        tls.replace(self.path("haproxy.cfg"), crt, crt + " alpn h2,http/1.1")
        return command


PEERS = {peer.name: peer for peer in (Headfirst, Nginx, HAProxy)}
