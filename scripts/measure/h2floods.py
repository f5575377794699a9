"""Floods of HTTP/2 frames, each by one client on one connection that is never opened again, and heavy use that is none.

    scripts/measure/h2floods.py [FLOOD|USE ...] [--of NAME] [--seconds S] [--clear] [--list]

Each flood has a proxy and an origin of its own, and beside it a client that asks for something small again and again.

counted   has to be ended (GOAWAY with an error, or a close) before 2,000 frames; else it goes on for --seconds (5)
timed     few frames, or none that may be counted: it, or all its streams, have to be ended within the timeouts that are
          configured, 2 s
lasting   nothing forbids it: it goes on, and only what it costs is bounded

Of all of them: less than 16 MiB of RSS more, at most 0.25 s of CPU (lasting: at most 20 us a frame, of those that carry
heads 100), the other client's 99th percentile of 10 s at most twice what it was before, or 1 ms more, as the machine alone
makes it (once the flood has been ended, the rest of the 10 s counts as seen; lasting: at most 10 ms, where each round of the
loop writes to 100 servers 25), none of its requests failed, the proxy lives. Until 3,000 frames were sent a batch waits until the proxy has read the one before, so that they
can be counted; from then on it goes as fast as it can. Of other proxies (--of) there is no verdict.

Uses are what clients do that mean no harm, much of it at a time: none of them may be ended.
"""
import argparse, asyncio, contextlib, json, os, re, select, socket, ssl, struct, subprocess, sys, threading, time

import http2, peers, streamload, tls
from http2 import (CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW, PADDED, PING, PRIORITISED,
                   PRIORITY, PRIORITY_UPDATE, RST_STREAM, SETTINGS, TABLE_SIZE, field, frame, get, head, headers, integer,
                   reset, settings, window_update)

MIB = 1 << 20
FRAMES_MAX, PACED, BATCH = 2000, 3000, 25
PAUSE = 0.001                               # seconds between two batches at first
TIMEOUT, GRACE = 2.0, 1.5                   # seconds: configured, and until it has to be seen
RSS_MAX, CPU_MAX, FRAME_MICROSECONDS, HEAD_MICROSECONDS = 16 * MIB, 0.25, 20.0, 100.0
P99_FACTOR, P99_NOISE, P99_LASTING = 2.0, 0.001, 0.010
BEFORE, WINDOW = 1.0, 1.0                   # seconds the other client is watched before, and at least meanwhile
HORIZON = 10.0                              # seconds of a flood of which its 99th percentile tells
BYSTANDER_PAUSE = 0.001


# The origin: /small, /hang (reads, never answers), /big (200 MiB), /ticks (an event each 5 ms), /echo (of what comes)

class Served(asyncio.Protocol):
    BIG = 200 * MIB
    BLOCK = b"x" * 65536

    def connection_made(self, transport):
        self.transport, self.received, self.left, self.path = transport, b"", 0, None
        self.chunked, self.task, self.writable = False, None, asyncio.Event()
        self.writable.set()
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pause_writing(self):
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()

    def connection_lost(self, _):
        if self.task:
            self.task.cancel()

    def data_received(self, data):
        if self.path:
            return self.content(data)
        self.received += data
        while not self.path and b"\r\n\r\n" in self.received:
            first, _, self.received = self.received.partition(b"\r\n\r\n")
            self.begin(first)

    def begin(self, first):
        self.path = first.split(b" ", 2)[1]
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", first)
        self.chunked = re.search(rb"(?i)\r\ntransfer-encoding: chunked", first) is not None
        self.left = int(length[1]) if length else 0
        if self.path == b"/big":
            self.task = asyncio.ensure_future(self.big())
        elif self.path == b"/ticks":
            self.task = asyncio.ensure_future(self.ticks())
        elif self.path == b"/echo":
            self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        elif self.path == b"/early":
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        received, self.received = self.received, b""
        self.content(received)

    def content(self, data):
        if self.path == b"/echo" and data:
            self.transport.write(data)                              # its chunks are chunks, its end is an end
        if self.chunked:
            self.received = (self.received + data)[-5:]
            if self.received != b"0\r\n\r\n":
                return
            self.received = data = b""
        elif len(data) < self.left:
            self.left -= len(data)
            return
        if self.path in (b"/hang", b"/big", b"/ticks"):
            return
        if self.path not in (b"/echo", b"/early"):
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        rest, self.path = data[self.left:], None
        if rest:
            self.data_received(rest)

    async def big(self):
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.BIG)
        for _ in range(self.BIG // len(self.BLOCK)):
            await self.writable.wait()
            self.transport.write(self.BLOCK)
            await asyncio.sleep(0)
        self.path = None

    async def ticks(self):
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            self.transport.write(b"9\r\ndata: x\n\n\r\n")
            await asyncio.sleep(0.005)


async def serve_origin():
    server = await asyncio.get_running_loop().create_server(Served, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


# The floods: generators of (bytes, how many frames of them are abusive)

FLOODS, USES = {}, {}


class Flood:
    def __init__(self, make, kind, reads, more, window, microseconds, p99):
        self.make, self.kind, self.reads, self.more, self.window = make, kind, reads, more, window
        self.microseconds, self.p99, self.why = microseconds, p99, make.__doc__


def flood(kind="counted", reads=True, more=b"", window=http2.WINDOW_MAX, microseconds=FRAME_MICROSECONDS,
          p99=P99_LASTING, name=None):
    """Of a generator function; its docstring tells what it is."""
    def add(make):
        FLOODS[name or make.__name__] = Flood(make, kind, reads, more, window, microseconds, p99)
        return make
    return add


def opening(make_one, frames=1, batch=BATCH):
    """A flood that opens a stream for each of its pieces."""
    def forever(client):
        while True:
            yield b"".join(make_one(client.stream()) for _ in range(batch)), batch * frames
    return forever


def repeating(one, frames=1, batch=BATCH, first=b""):
    def forever(client):
        if first:
            client.stream()
            yield first, 0
        while True:
            yield one * batch, batch * frames
    return forever


def simple(name, why, generator, **named):
    flood(name=name, **named)(generator)
    FLOODS[name].why = why


POST = head("/hang", "POST")
HANG, SMALL = head("/hang"), head("/small")
OPEN = headers(1, POST, END_HEADERS)

simple("rapid_reset", "HEADERS and RST_STREAM, of requests that hang",
       opening(lambda s: headers(s, HANG) + reset(s), 2))
simple("rapid_reset_small", "HEADERS and RST_STREAM, of requests that are answered at once",
       opening(lambda s: headers(s, SMALL) + reset(s), 2))
simple("rapid_reset_open", "HEADERS without END_STREAM, and RST_STREAM",
       opening(lambda s: headers(s, POST, END_HEADERS) + reset(s), 2))
simple("made_window_0", "the server is made to reset: WINDOW_UPDATE of 0",
       opening(lambda s: headers(s, HANG) + window_update(s, 0), 2))
simple("made_window_overflow", "the server is made to reset: WINDOW_UPDATE beyond 2^31 - 1",
       opening(lambda s: headers(s, HANG) + window_update(s, http2.WINDOW_MAX), 2))
simple("made_half_closed", "the server is made to reset: DATA behind END_STREAM",
       opening(lambda s: headers(s, HANG) + frame(DATA, 0, s, b"x"), 2))
simple("made_headers_again", "the server is made to reset: HEADERS behind END_STREAM",
       opening(lambda s: headers(s, HANG) + headers(s, HANG), 2))
simple("made_length", "the server is made to reset: less content than declared",
       opening(lambda s: headers(s, head("/hang", "POST", ("content-length", "5")), END_HEADERS)
               + frame(DATA, END_STREAM, s, b"abc"), 2))
simple("made_length_over", "the server is made to reset: more content than declared",
       opening(lambda s: headers(s, head("/hang", "POST", ("content-length", "2")), END_HEADERS)
               + frame(DATA, 0, s, b"abc"), 2))
simple("made_malformed", "the server is made to reset: a field name in upper case",
       opening(lambda s: headers(s, SMALL + field("Upper", "x"))))
simple("made_connection_field", "the server is made to reset: a connection field",
       opening(lambda s: headers(s, SMALL + field("connection", "close"))))
simple("made_trailers", "the server is made to reset: trailers without END_STREAM",
       opening(lambda s: headers(s, POST, END_HEADERS) + headers(s, field("x", "y"), END_HEADERS), 2))
simple("made_self_dependency", "the server is made to reset: a stream that depends on itself",
       opening(lambda s: frame(HEADERS, END_HEADERS | END_STREAM | PRIORITISED, s, struct.pack(">IB", s, 1) + SMALL)))
simple("refused_requests", "requests that are answered with 400: a bad path",
       opening(lambda s: headers(s, head("no/slash"))))
simple("long_targets", "requests that are answered with 414", opening(
    lambda s: headers(s, head("/" + "x" * 9000)), 1, 5))
simple("streams_beyond", "streams beyond the 100 that are allowed", opening(lambda s: headers(s, HANG)))
simple("uploads_beyond", "streams beyond the 100 that are allowed, with a byte of content each",
       opening(lambda s: headers(s, POST, END_HEADERS) + frame(DATA, 0, s, b"x"), 2))
simple("reset_closed", "RST_STREAM of a stream that is over", repeating(reset(1), first=get(1)))
simple("reset_idle", "RST_STREAM of a stream that never was", repeating(reset(1001)))

simple("settings", "SETTINGS, empty", repeating(settings()))
simple("settings_unread", "SETTINGS, and never reads", repeating(settings()), reads=False)
simple("settings_table", "SETTINGS that toggle the size of the table",
       repeating(settings((TABLE_SIZE, 0)) + settings((TABLE_SIZE, 4096)), 2))
simple("settings_table_once", "SETTINGS that toggle the size of the table many times in one frame",
       repeating(settings(*((TABLE_SIZE, 0), (TABLE_SIZE, 4096)) * 1000), 1, 5))
simple("settings_unknown", "SETTINGS with 2,700 unknown settings each",
       repeating(settings(*((0xF000, 1),) * 2700), 1, 5))
simple("settings_acks", "SETTINGS acknowledged that never were", repeating(frame(SETTINGS, http2.ACK)))
simple("ping", "PING", repeating(frame(PING, 0, 0, b"12345678")))
simple("ping_unread", "PING, and never reads", repeating(frame(PING, 0, 0, b"12345678")), reads=False)
simple("ping_acks", "PING acknowledged that never were", repeating(frame(PING, http2.ACK, 0, b"12345678")))
simple("goaway", "GOAWAY", repeating(frame(GOAWAY, 0, 0, bytes(8))))
simple("priority", "PRIORITY", opening(lambda s: frame(PRIORITY, 0, s, struct.pack(">IB", 0, 7))))
simple("priority_open", "PRIORITY of an open stream", repeating(
    frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 7)) + frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 9)), 2, first=OPEN))
simple("priority_update", "PRIORITY_UPDATE",
       opening(lambda s: frame(PRIORITY_UPDATE, 0, 0, struct.pack(">I", s) + b"u=1, i")))
simple("unknown", "frames of an unknown type, empty", repeating(frame(0xFA)))
simple("unknown_large", "frames of an unknown type, 16 KiB each", repeating(frame(0xFA, 0, 0, bytes(16384)), 1, 5))
simple("altsvc", "ALTSVC, which only servers send", repeating(frame(0xA, 0, 0, b"\0\1x" + b'h2=":1"')))
simple("origin", "ORIGIN, which only servers send", repeating(frame(0xC, 0, 0, b"\0\x13https://example.com")))

simple("data_empty", "DATA without content", repeating(frame(DATA, 0, 1), first=OPEN))
simple("data_padded", "DATA that is padding alone, 256 bytes",
       repeating(frame(DATA, PADDED, 1, b"\xff" + bytes(255)), first=OPEN))
simple("data_pad_length", "DATA that is padding alone, of no bytes", repeating(frame(DATA, PADDED, 1, b"\0"), first=OPEN))
simple("data_closed", "DATA for a stream that is over", repeating(frame(DATA, 0, 1, b"x"), first=get(1)))
simple("data_reset", "DATA for a stream that was reset, 16 KiB each",
       repeating(frame(DATA, 0, 1, bytes(16384)), 1, 5, first=OPEN + reset(1)))
simple("data_1", "DATA of a byte each, without end", repeating(frame(DATA, 0, 1, b"x"), first=OPEN), kind="lasting")
simple("data_100_streams", "DATA of a byte each on 100 streams in turn, without end", repeating(
    b"".join(frame(DATA, 0, s, b"x") for s in range(1, 200, 2)), 100, 1,
    first=b"".join(headers(s, POST, END_HEADERS) for s in range(1, 200, 2))), kind="lasting", p99=0.025)
simple("window_1", "WINDOW_UPDATE of 1 for the connection", repeating(window_update(0, 1)), window=0)
simple("window_1024", "WINDOW_UPDATE of 1,024 for the connection, for nothing", repeating(window_update(0, 1024)), window=0)
simple("window_stream", "WINDOW_UPDATE of 1,024 for a stream, for nothing",
       repeating(window_update(1, 1024), first=headers(1, HANG)))
simple("window_closed", "WINDOW_UPDATE of 1,024 for a stream that is over", repeating(window_update(1, 1024), first=get(1)))
simple("window_bytes", "windows of a byte: a WINDOW_UPDATE of 1 for each byte of an answer",
       repeating(window_update(1, 1), first=get(1, "/big")), more=settings((INITIAL_WINDOW, 1)))


@flood()
def continuations(client):
    """CONTINUATION with a field each, without end"""
    yield frame(HEADERS, END_STREAM, client.stream(), SMALL), 0
    while True:
        yield frame(CONTINUATION, 0, 1, field("x", "y")) * BATCH, BATCH


@flood()
def continuations_empty(client):
    """CONTINUATION without anything, without end"""
    yield frame(HEADERS, END_STREAM, client.stream(), SMALL), 0
    while True:
        yield frame(CONTINUATION, 0, 1) * BATCH, BATCH


@flood()
def continuations_large(client):
    """CONTINUATION of 16 KiB each, without end"""
    yield frame(HEADERS, END_STREAM, client.stream(), SMALL), 0
    one = frame(CONTINUATION, 0, 1, field("x", "y" * 8000) * 2)
    while True:
        yield one * 5, 5


@flood()
def continuations_few(client):
    """requests whose heads come in 30 empty CONTINUATION each"""
    while True:
        stream = client.stream()
        yield frame(HEADERS, END_STREAM, stream, SMALL) + frame(CONTINUATION, 0, stream) * 29 + frame(
            CONTINUATION, END_HEADERS, stream), 30


@flood()
def hpack_bomb(client):
    """a field of 4,000 bytes in the table, and requests that name it 16,000 times each"""
    yield headers(client.stream(), SMALL + field("bomb", "x" * 4000, 0x40)), 0
    while True:
        yield headers(client.stream(), SMALL + b"\xbe" * 16000), 1


@flood()
def hpack_bomb_continued(client):
    """the same in one request, continued without end"""
    yield headers(client.stream(), SMALL + field("bomb", "x" * 4000, 0x40)), 0
    yield frame(HEADERS, END_STREAM, client.stream(), SMALL), 0
    while True:
        yield frame(CONTINUATION, 0, client.next_stream - 2, b"\xbe" * 16000), 1


@flood()
def hpack_crumbs(client):
    """requests with 16,000 crumbs of a cookie each"""
    yield headers(client.stream(), SMALL + field("cookie", "a", 0x40)), 0
    while True:
        yield headers(client.stream(), SMALL + b"\xbe" * 16000), 1


def is_full(client):
    """Whether as many streams are open as there may be, nearly."""
    return client.next_stream // 2 - client.over >= 50


@flood()
def hpack_table(client):
    """the size of the table changed 4,000 times in each head"""
    sizes = (b"\x20" + integer(4096, 5, 0x20)) * 2000
    while True:
        yield (b"", 0) if is_full(client) else (headers(client.stream(), sizes + SMALL), 1)


@flood()
def heads_over(client):
    """requests with heads of 48 KiB, more than there may be"""
    while True:
        stream, more = client.stream(), field("x", "y" * 16000)
        yield frame(HEADERS, END_STREAM, stream, SMALL) + frame(CONTINUATION, 0, stream, more) * 2 + frame(
            CONTINUATION, END_HEADERS, stream, more), 4


@flood("lasting", microseconds=HEAD_MICROSECONDS)
def heads_large(client):
    """requests with heads of 28 KiB, which may be"""
    more = field("x", "y" * 7000)
    while True:
        while is_full(client):
            yield b"", 0
        stream = client.stream()
        yield frame(HEADERS, END_STREAM, stream, SMALL + more * 2) + frame(
            CONTINUATION, END_HEADERS, stream, more * 2), 2


@flood()
def settings_window(client):
    """SETTINGS that toggle the windows of 100 open streams"""
    yield b"".join(headers(client.stream(), HANG) for _ in range(100)), 0
    while True:
        yield (settings((INITIAL_WINDOW, 1)) + settings((INITIAL_WINDOW, 65535))) * 10, 20


@flood("timed", reads=False)
def never_reads(client):
    """100 large answers with the largest windows, and never reads"""
    yield b"".join(get(client.stream(), "/big") for _ in range(100)), 100


@flood("timed", reads=False)
def never_reads_but_pings(client):
    """the same, and a PING every 50 ms"""
    yield b"".join(get(client.stream(), "/big") for _ in range(100)), 100
    while True:
        time.sleep(0.05)
        yield frame(PING, 0, 0, b"12345678"), 1


@flood("timed", more=settings((INITIAL_WINDOW, 0)))
def never_opens_windows(client):
    """100 large answers with windows of 0, and a PING every 50 ms"""
    yield b"".join(get(client.stream(), "/big") for _ in range(100)), 100
    while True:
        time.sleep(0.05)
        yield frame(PING, 0, 0, b"12345678"), 1


@flood("timed", window=0, more=settings((INITIAL_WINDOW, http2.WINDOW_MAX)))
def never_opens_connection(client):
    """100 large answers with the largest windows of streams and none of the connection's given back, and PING"""
    yield b"".join(get(client.stream(), "/big") for _ in range(100)), 100
    while True:
        time.sleep(0.05)
        yield frame(PING, 0, 0, b"12345678"), 1


@flood("timed")
def slow_head(client):
    """a head whose bytes come in CONTINUATION of one each 50 ms"""
    yield frame(HEADERS, END_STREAM, client.stream(), SMALL), 1
    for byte in field("x", "y" * 5000):
        time.sleep(0.05)
        yield frame(CONTINUATION, 0, 1, bytes((byte,))), 1


@flood("timed")
def slow_frame(client):
    """one frame of HEADERS whose bytes come each 50 ms"""
    for byte in headers(client.stream(), SMALL + field("x", "y" * 5000)):
        time.sleep(0.05)
        yield bytes((byte,)), 0


@flood("timed")
def half_header(client):
    """half of a frame's header, and then nothing"""
    yield frame(PING, 0, 0, b"12345678")[:5], 0
    while True:
        time.sleep(0.05)
        yield b"", 0


@flood("timed")
def upload_that_stops(client):
    """100 uploads of which nothing comes, and a PING every 50 ms"""
    yield b"".join(headers(client.stream(), head("/hang", "POST", ("content-length", "5")), END_HEADERS)
                   for _ in range(100)), 100
    while True:
        time.sleep(0.05)
        yield frame(PING, 0, 0, b"12345678"), 1


class Unread:
    """How many bytes of a connection on the loopback its other side has not read yet: sock_diag(7) tells."""

    def __init__(self, connection):
        self.netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
        source, target = connection.getpeername(), connection.getsockname()
        ends = struct.pack(">HH", source[1], target[1]) + b"".join(
            socket.inet_aton(end[0]) + bytes(12) for end in (source, target)) + struct.pack("=III", 0, *[0xFFFFFFFF] * 2)
        self.request = struct.pack("=IHHII", 16 + 8 + len(ends), 20, 1, 0, 0) + struct.pack(
            "=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + ends

    def look(self):
        """(bytes, whether somebody has that side open)"""
        self.netlink.send(self.request)
        answer = self.netlink.recv(4096)
        if struct.unpack_from("=H", answer, 4)[0] != 20:         # there is no such connection any more
            return 0, False
        count, _, _, inode = struct.unpack_from("=IIII", answer, 72)
        return count, inode != 0

    def wait(self, seconds):
        deadline = time.monotonic() + seconds
        while self.look()[0] and time.monotonic() < deadline:
            time.sleep(0.0001)


class Flooder:
    """The client that floods, in a process of its own."""

    def __init__(self, name, port, seconds, secure):
        chosen = FLOODS[name]
        self.client = http2.Client(port, secure, chosen.more, chosen.window)
        self.client.greet()
        self.client.answers = False         # an acknowledgement may not come within a head
        self.client.socket.setblocking(False)
        self.unread = Unread(self.client.socket)
        self.reads, self.frames, self.blocked = chosen.reads, 0, 0.0
        print("ready", flush=True)
        sys.stdin.readline()
        self.started = time.monotonic()
        self.stop = self.started + seconds
        for data, frames in chosen.make(self.client):
            if self.client.end or self.is_over(chosen) or time.monotonic() > self.stop or not self.push(data):
                break
            self.frames += frames
            if self.frames < PACED:
                self.unread.wait(0.05)
            self.look(PAUSE if self.frames < PACED else 0)
        # It has nothing more to send.
        while not self.client.end and not self.is_over(chosen) and time.monotonic() < self.stop:
            self.look(0.02)
        if self.client.end and self.client.end[1].startswith("GOAWAY"):    # when is it closed?
            self.closes = time.monotonic()
            while time.monotonic() < self.closes + 2 and self.look(0.02, True):
                pass
            self.closes = time.monotonic() - self.closes
        else:
            self.closes = 0.0

    def is_over(self, chosen):
        """Whether each of its streams was ended, where that is what is wanted."""
        client = self.client
        if chosen.kind == "timed" and 2 * client.over >= client.next_stream - 1 > 0:
            client.ended("its streams ended")
        return client.end

    def look(self, seconds, to_the_end=False):
        """Reads what is there, or only looks whether the connection lives; whether it does."""
        client = self.client
        if not self.reads and not to_the_end:
            poll = select.poll()
            poll.register(client.socket, select.POLLRDHUP)
            if poll.poll(seconds * 1e3) or not self.unread.look()[1]:
                client.ended("closed")      # its end may stand behind what is not read
            return not client.end
        ended, client.end = client.end, None if to_the_end else client.end
        client.read(seconds)
        client.socket.setblocking(False)
        lives = not client.end or client.end[1].startswith("GOAWAY")
        client.end = ended or client.end
        return lives

    def push(self, data):
        client, view = self.client, memoryview(data)
        while len(view):
            try:
                view = view[client.socket.send(view):]
                continue
            except (ssl.SSLWantWriteError, BlockingIOError):
                pass
            except OSError:
                self.look(0)
                client.ended("reset" if not client.end else "")
                return False
            since = time.monotonic()
            if since > self.stop:
                return False
            if self.reads:
                select.select([client.socket], [client.socket], [], 0.02)
                self.look(0)
            else:
                poll = select.poll()
                poll.register(client.socket, select.POLLRDHUP | select.POLLOUT)
                poll.poll(20)
                self.look(0)
            self.blocked += time.monotonic() - since
            if client.end:
                return False
        return True

    def found(self):
        end = self.client.end
        return {"frames": self.frames, "ended": end and end[1], "started": self.started, "blocked": self.blocked,
                "seconds": (end[0] if end else time.monotonic()) - self.started, "closes": self.closes,
                "over": end[0] if end else time.monotonic()}


# The client that means no harm

def stand_by(port, secure):
    """Asks until stdin ends, then prints [(when, how long)] and what failed."""
    samples, failures, over = [], [], threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    try:
        client = http2.Client(port, secure)
        client.ask("/fast")
        print("begun", flush=True)
        while not over.wait(BYSTANDER_PAUSE):
            started = time.monotonic()
            if client.ask("/fast", 5) != b"hello":
                raise http2.Failed("another content")
            samples.append((started, time.monotonic() - started))
    except (http2.Failed, OSError) as error:
        failures.append(str(error) or type(error).__name__)
        print("failed", flush=True)
        over.wait()
    print(json.dumps({"samples": samples, "failures": failures}), flush=True)


# All of it

class Other:
    """This file in another process, for one of its parts."""

    def __init__(self, *words):
        self.process = subprocess.Popen([sys.executable, __file__, *map(str, words)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise peers.CannotStart("a part of the measure ended")
        return line

    def stop(self):
        self.process.stdin.close()
        return self.line()

    def __exit__(self, *_):
        if self.process.stdin:
            self.process.stdin.close()
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


class Flooded(http2.Headfirst):
    """The other client's requests have an origin of their own: what the flood does to its origin is not the proxy's."""

    def command(self):
        command = super().command()
        tls.replace(self.path("proxy.conf"), "upstream origin {", """\
request_head_timeout 2s; request_idle_timeout 2s; send_idle_timeout 2s; keepalive_timeout %ds;
upstream fast { server 127.0.0.1:%d; }
upstream origin {""" % (TIMEOUT if self.is_timed else 75, self.fast_port))
        tls.replace(self.path("proxy.conf"), "route / {", "route /fast { upstream fast; }\n    route / {")
        return command


class FloodedNginx(http2.Nginx):
    def command(self):
        command = super().command()
        tls.replace(self.path("nginx.conf"), "upstream origin {",
                    "upstream fast { server 127.0.0.1:%d; keepalive 64; }\n    upstream origin {" % self.fast_port)
        tls.replace(self.path("nginx.conf"), "location / {", """\
location /fast {
            proxy_pass http://fast; proxy_http_version 1.1; proxy_set_header Connection "";
        }
        location / {""")
        return command


class FloodedHAProxy(http2.HAProxy):
    def command(self):
        command = super().command()
        tls.replace(self.path("haproxy.cfg"), "default_backend origin",
                    "use_backend fast if { path_beg /fast }\n    default_backend origin")
        with open(self.path("haproxy.cfg"), "a") as file:
            file.write("backend fast\n    server fast 127.0.0.1:%d\n" % self.fast_port)
        return command


FLOODED = {peer.name: peer for peer in (Flooded, FloodedNginx, FloodedHAProxy)}


@contextlib.contextmanager
def flooded(proxy_name, is_timed=False):
    """A proxy between the origin above and a fast one; is_timed: whether idle connections have a short time, too."""
    with Other("--origin") as origin, streamload.Origin() as fast:
        proxy = FLOODED[proxy_name](int(origin.line()))
        proxy.fast_port, proxy.is_timed = fast.port, is_timed
        with proxy:
            yield proxy


def port_of(proxy, secure):
    return proxy.port if secure else proxy.clear_port


def high(samples, start, end, seconds=None):
    """The 99th percentile of those who waited in that time, or of so many seconds of which the others were as usual."""
    chosen = sorted((took for when, took in samples if start <= when + took and when <= end), reverse=True)
    worse = len(chosen) * (seconds or end - start) / (end - start) * 0.01
    return chosen[min(int(worse), len(chosen) - 1)] if chosen else float("inf")


def run_flood(name, proxy_name, seconds, secure):
    """(whether it passes, what to say)"""
    chosen = FLOODS[name]
    words = [] if secure else ["--clear"]
    lasts = max(seconds, TIMEOUT + GRACE + 0.5) if chosen.kind == "timed" else seconds
    with flooded(proxy_name, chosen.kind == "timed") as proxy:
        port = port_of(proxy, secure)
        with Other("--bystander", port, *words) as bystander, Other(
                "--flood", name, port, "--seconds", lasts, *words) as flooder:
            bystander.line()
            flooder.line()
            time.sleep(0.2)
            watched_pids = proxy.pids()
            proxy.pids = lambda: watched_pids       # looking for them each time would be felt
            began, cpu_before = time.monotonic(), proxy.cpu_seconds()
            while time.monotonic() - began < BEFORE:
                select.select([flooder.process.stdout], [], [], 0.02)
                proxy.rss_bytes()
            began_flood = time.monotonic()
            usual = (proxy.cpu_seconds() - cpu_before) / (began_flood - began)
            rss, cpu = proxy.rss_bytes(), proxy.cpu_seconds()
            peak, begun, ready = rss, time.monotonic(), []
            flooder.process.stdin.write("\n")
            flooder.process.stdin.flush()
            while not ready or time.monotonic() - begun < WINDOW:
                ready = select.select([flooder.process.stdout], [], [], 0.02)[0]
                if proxy.is_alive():
                    peak = max(peak, proxy.rss_bytes())
                if ready:
                    time.sleep(0.02)
            found = json.loads(flooder.line())
            over = time.monotonic()
            alive = proxy.is_alive()
            used = proxy.cpu_seconds() - cpu - usual * (over - begun) if alive else float("nan")
            time.sleep(0.3)
            told = json.loads(bystander.stop())
        output = proxy.output() if not alive else ""
        after = proxy.rss_bytes() if alive else 0
    before = high(told["samples"], began, began_flood)
    span = found["started"], max(found["over"], found["started"] + WINDOW)
    first, during = high(told["samples"], *span), high(told["samples"], *span, HORIZON if found["ended"] else None)
    frames, wrong = found["frames"], []
    if not alive:
        wrong.append("THE PROXY DIED: " + output.strip()[-300:])
    if chosen.kind == "counted" and (not found["ended"] or frames >= FRAMES_MAX):
        wrong.append("%d frames" % frames if found["ended"] else "NOT ENDED in %.1f s" % found["seconds"])
    if chosen.kind == "timed" and (not found["ended"] or found["seconds"] > TIMEOUT + GRACE):
        wrong.append("not ended within %.1f s" % (TIMEOUT + GRACE))
    if found["closes"] >= 2:
        wrong.append("not closed 2 s after its GOAWAY")
    if peak - rss >= RSS_MAX:
        wrong.append("memory")
    allowed = max(CPU_MAX, frames * chosen.microseconds * 1e-6 if chosen.kind == "lasting" else 0)
    if used > allowed:
        wrong.append("CPU")
    if during > max(before * P99_FACTOR, before + P99_NOISE, chosen.p99 if chosen.kind == "lasting" else 0):
        wrong.append("p99")
    if told["failures"]:
        wrong.append("the other client: " + told["failures"][0])
    text = "%s after %d frames, %.2f s; CPU %.2f s%s, RSS +%.2f MiB (+%.2f after), p99 %.2f ms " \
        "(%.2f before, %.2f while watched)" % (
        found["ended"] or "goes on", frames, found["seconds"], used,
        ", %.1f us a frame" % (used / frames * 1e6) if frames > 3 * FRAMES_MAX else "",
        (peak - rss) / MIB, (after - rss) / MIB, during * 1e3, before * 1e3, first * 1e3)
    return not wrong, text + ("" if not wrong else "  <- " + "; ".join(wrong))


# Uses

def use(function):
    USES[function.__name__] = function
    return function


@use
def many_streams(port, secure, seconds):
    """h2load with 100 streams at a time"""
    scheme = "https" if secure else "http"
    done = subprocess.run([peers.find("h2load", "nghttp2-client"), "-c1", "-m100", "-D%d" % max(1, seconds),
                           "%s://127.0.0.1:%d/small" % (scheme, port)], capture_output=True, text=True, timeout=60)
    counts = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored",
                       done.stdout)
    if not counts or int(counts[4]) or int(counts[5]) or not int(counts[3]):
        raise http2.Failed(done.stdout.strip()[-400:] or done.stderr)
    return "%s requests" % counts[3]


@use
def one_by_one(port, secure, seconds):
    """20,000 requests, one after the other"""
    client = http2.Client(port, secure)
    for number in range(20_000):
        if client.ask() != b"hello":
            raise http2.Failed("another content at %d" % number)
    return "20000 requests"


def watched(client, seconds):
    """Reads for so many seconds; fails if the connection ends. Gives the frames."""
    frames = client.read(seconds)
    if client.end:
        raise http2.Failed("ended by %s" % client.end[1])
    return frames


@use
def cancels(port, secure, seconds):
    """200 requests a second, half of which are cancelled"""
    client, completed, cancelled, stop = http2.Client(port, secure), 0, 0, time.monotonic() + seconds
    while time.monotonic() < stop:
        stream = client.stream()
        client.send(headers(stream, HANG) + get(client.stream()))
        pause = time.monotonic() + 0.01
        while (left := pause - time.monotonic()) > 0:
            for kind, flags, _, payload in watched(client, left):
                completed += kind == DATA and bool(flags & END_STREAM)
                if payload and kind == DATA:
                    client.send(window_update(0, len(payload)))
        client.send(reset(stream))
        cancelled += 1
    if completed < cancelled * 0.9:
        raise http2.Failed("%d of %d others completed" % (completed, cancelled))
    return "%d completed, %d cancelled" % (completed, cancelled)


@use
def page_left(port, secure, seconds):
    """100 requests at once that are all cancelled when the page is left, each second"""
    client, count, stop = http2.Client(port, secure), 0, time.monotonic() + seconds
    while time.monotonic() < stop:
        streams = [client.stream() for _ in range(100)]
        client.send(b"".join(headers(stream, SMALL if at % 2 else HANG) for at, stream in enumerate(streams)))
        until = time.monotonic() + 0.5
        while (left := until - time.monotonic()) > 0:
            watched(client, left)
        client.send(b"".join(reset(stream) for stream in streams[::2]))
        until = time.monotonic() + 0.5
        while (left := until - time.monotonic()) > 0:
            watched(client, left)
        count += 1
    return "%d pages" % count


@use
def updates_each_frame(port, secure, seconds):
    """a download, two WINDOW_UPDATE for each DATA"""
    client, stop, received, frames = http2.Client(port, secure, window=0), time.monotonic() + seconds, 0, 0
    stream = client.stream()
    client.send(get(stream, "/big"))
    while time.monotonic() < stop and received < 200 * MIB:
        for kind, flags, _, payload in watched(client, 1):
            if kind == DATA and payload:
                received, frames = received + len(payload), frames + 1
                client.send(window_update(0, len(payload)))
                if not flags & END_STREAM:
                    client.send(window_update(stream, len(payload)))
    return "%.0f MiB in %d frames" % (received / MIB, frames)


@use
def updates_small(port, secure, seconds):
    """a download of which each 500 bytes that were taken are told"""
    client, stop, received, frames, owed = http2.Client(port, secure, window=0), time.monotonic() + seconds, 0, 0, 0
    stream = client.stream()
    client.send(get(stream, "/big"))
    while time.monotonic() < stop and received < 200 * MIB:
        for kind, flags, _, payload in watched(client, 1):
            if kind == DATA and payload:
                received, owed = received + len(payload), owed + len(payload)
                steps, owed = divmod(owed, 500)
                frames += 2 * steps
                client.send((window_update(0, 500) + window_update(stream, 500)) * steps)
    return "%.1f MiB, %d updates" % (received / MIB, frames)


def events(port, secure, seconds, with_ping):
    client, stop, count, pings, waits = http2.Client(port, secure, window=0), time.monotonic() + seconds, 0, 0, False
    client.send(b"".join(get(client.stream(), "/ticks") for _ in range(10)))
    while time.monotonic() < stop:
        for kind, flags, stream, payload in watched(client, 1):
            if kind == PING and flags & http2.ACK:
                waits = False
            if kind == DATA and payload:
                count += 1
                client.send(window_update(0, len(payload)))
                if not with_ping:
                    client.send(window_update(stream, len(payload)))
                elif not waits:
                    client.send(frame(PING, 0, 0, b"bdp-ping"))
                    waits, pings = True, pings + 1
    if not count:
        raise http2.Failed("no event came")
    return "%d events, %d PING" % (count, pings)


@use
def updates_of_events(port, secure, seconds):
    """10 streams of small events, two WINDOW_UPDATE for each"""
    return events(port, secure, seconds, False)


@use
def grpc_of_events(port, secure, seconds):
    """the same as grpc-go does it: a WINDOW_UPDATE for each, and a PING when the last was acknowledged"""
    return events(port, secure, seconds, True)


@use
def grpc(port, secure, seconds):
    """a stream of messages each 5 ms both ways, and a PING each 100 ms"""
    client, stop, echoed, sent = http2.Client(port, secure), time.monotonic() + seconds, 0, 0
    stream = client.stream()
    client.send(headers(stream, head("/echo", "POST", ("content-type", "application/grpc"), ("te", "trailers")),
                        END_HEADERS))
    while time.monotonic() < stop:
        client.send(frame(DATA, 0, stream, b"\0\0\0\0\x05hello"))
        sent += 1
        if sent % 20 == 0:
            client.send(frame(PING, 0, 0, b"grpcping"))
        for kind, _, number, payload in watched(client, 0.005):
            if kind == RST_STREAM:
                raise http2.Failed("the stream was reset")
            if kind == DATA and number == stream and payload:
                echoed += len(payload)
                client.send(window_update(stream, len(payload)) + window_update(0, len(payload)))
    if echoed < sent * 10 * 0.9:
        raise http2.Failed("%d of %d bytes came back" % (echoed, sent * 10))
    return "%d messages" % sent


@use
def small_uploads(port, secure, seconds):
    """uploads of 1,000 DATA of 10 bytes each, 4 streams at a time"""
    client, stop, done = http2.Client(port, secure), time.monotonic() + seconds, 0
    while time.monotonic() < stop:
        streams = [client.stream() for _ in range(4)]
        client.send(b"".join(headers(stream, head("/small", "POST"), END_HEADERS) for stream in streams))
        for piece in range(1000):
            client.send(b"".join(frame(DATA, END_STREAM if piece == 999 else 0, stream, b"0123456789")
                                 for stream in streams))
            if piece % 100 == 99:
                done += sum(kind == DATA and bool(flags & END_STREAM) for kind, flags, _, _ in watched(client, 0.001))
        until = time.monotonic() + 2
        wanted = client.next_stream // 2
        while done < wanted and time.monotonic() < until:
            done += sum(kind == DATA and bool(flags & END_STREAM) for kind, flags, _, _ in watched(client, 0.1))
        if done < wanted:
            raise http2.Failed("%d of %d uploads were answered" % (done, wanted))
    return "%d uploads" % done


@use
def large_heads(port, secure, seconds):
    """requests with fields of 24 KiB, which take HEADERS and CONTINUATION, one after the other"""
    client, stop, done = http2.Client(port, secure), time.monotonic() + seconds, 0
    more = b"".join(field("cookie", "n%d=%s" % (number, "v" * 3000)) for number in range(8))
    while time.monotonic() < stop:
        stream = client.stream()
        client.send(frame(HEADERS, END_STREAM, stream, SMALL + more[:12000])
                    + frame(CONTINUATION, END_HEADERS, stream, more[12000:]))
        over = False
        while not over:
            for kind, flags, number, payload in watched(client, 5):
                if kind == HEADERS and http2.status_in(payload) not in (200, None):
                    raise http2.Failed("answered with %s" % http2.status_in(payload))
                over |= number == stream and kind in (DATA, HEADERS) and bool(flags & END_STREAM)
        done += 1
    return "%d requests" % done


@use
def reprioritised(port, secure, seconds):
    """a browser that scrolls: 20 PRIORITY_UPDATE a second beside requests"""
    client, stop, done = http2.Client(port, secure), time.monotonic() + seconds, 0
    while time.monotonic() < stop:
        client.ask()
        client.send(frame(PRIORITY_UPDATE, 0, 0, struct.pack(">I", client.next_stream - 2) + b"u=2"))
        watched(client, 0.05)
        done += 1
    return "%d updates" % done


def run_use(name, proxy_name, seconds, secure):
    with flooded(proxy_name) as proxy:
        before = proxy.rss_bytes()
        try:
            text, passed = USES[name](port_of(proxy, secure), secure, seconds), True
        except (http2.Failed, OSError) as error:
            text, passed = str(error) or type(error).__name__, False
        if not proxy.is_alive():
            return False, "THE PROXY DIED: " + proxy.output()[-300:]
        return passed, "%s; RSS +%.2f MiB" % (text, (proxy.rss_bytes() - before) / MIB)


def all_measures(_, seconds):
    """As operating.py wants it."""
    yield from measures([*FLOODS, *USES], seconds=seconds)


def measures(names, proxy_name="headfirst", seconds=5.0, secure=True):
    """Yields (passed, text), as all of soak.py."""
    for name in names:
        run, what = (run_flood, FLOODS[name].why) if name in FLOODS else (run_use, USES[name].__doc__)
        passed, text = run(name, proxy_name, seconds, secure)
        yield passed, "%s (%s): %s" % (name, what.strip(), text)


def parts(arguments):
    """What the processes do that this file starts of itself; whether it is one of them."""
    # The other client is what is measured, and processors are few: it goes before, where that may be had.
    if arguments[:1] == ["--origin"]:
        os.nice(10)
        asyncio.run(serve_origin())
    elif arguments[:1] == ["--bystander"]:
        with contextlib.suppress(PermissionError):
            os.nice(-10)
        stand_by(int(arguments[1]), "--clear" not in arguments)
    elif arguments[:1] == ["--flood"]:
        os.nice(10)
        found = Flooder(arguments[1], int(arguments[2]), float(arguments[4]), "--clear" not in arguments)
        print(json.dumps(found.found()), flush=True)
    else:
        return False
    return True


def main():
    if parts(sys.argv[1:]):
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="FLOOD|USE", help="default: all")
    parser.add_argument("--of", default="headfirst", choices=sorted(http2.PEERS), help="the proxy to measure")
    parser.add_argument("--seconds", type=float, default=5, help="that a flood goes on, or a use (default 5)")
    parser.add_argument("--clear", action="store_true", help="in clear in the place of TLS (Headfirst alone)")
    parser.add_argument("--list", action="store_true", help="tell their names")
    arguments = parser.parse_args()
    every = {**{name: "%-8s %s" % (one.kind, one.why.strip()) for name, one in FLOODS.items()},
             **{name: "%-8s %s" % ("use", one.__doc__.strip()) for name, one in USES.items()}}
    if arguments.list:
        print("\n".join("%-24s %s" % item for item in every.items()))
        return 0
    if unknown := [name for name in arguments.names if name not in every]:
        parser.error("unknown: %s; see --list" % ", ".join(unknown))
    if arguments.clear and arguments.of != "headfirst":
        parser.error("only Headfirst is asked in clear")
    ours, failures = arguments.of == "headfirst", 0
    try:
        if ours and not os.access(os.environ.get("HEADFIRST_BINARY", ""), os.X_OK):
            raise peers.CannotStart("HEADFIRST_BINARY names no program")
        for passed, text in measures(arguments.names or every, arguments.of, arguments.seconds, not arguments.clear):
            failures += not passed
            print("%s %s" % (("PASS" if passed else "FAIL") if ours else "    ", text), flush=True)
    except (peers.CannotStart, OSError) as error:
        print("error: %s" % error, file=sys.stderr)
        return 2
    if ours:
        print("floods: %s" % ("%d FAILED" % failures if failures else "passed"))
    return 1 if ours and failures else 0


if __name__ == "__main__":
    sys.exit(main())
