"""How long a proxy holds a head: one thread plays client and origin, so both read the same clock.

The head leaves one side; its content follows only 400 ms later, or as soon as the head has arrived. A proxy that
waits for content is seen as about 400 ms, one that corks its socket as about 200 ms.
"""
import contextlib, select, socket, ssl, statistics, time

HELD = 0.4                                  # seconds until the content follows
SAMPLES, SECONDS = 400, 5                   # of each row: whichever is reached first, but at least 10 samples
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CONTENT = b"x" * 1000
CHUNK = b"3e8\r\n" + CONTENT + b"\r\n0\r\n\r\n"
# name: (head, content, whether the close ends it)
ANSWERS = {
    "response, chunked": (RESPONSE + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, False),
    "response, Content-Length": (RESPONSE + b"Content-Length: 1000\r\n\r\n", CONTENT, False),
    "response, until close": (RESPONSE + b"Connection: close\r\n\r\n", CONTENT, True),
}
REQUESTS = {
    "request, chunked": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNK),
    "request, Content-Length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", CONTENT),
}
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class NoAnswer(Exception):
    pass


def no_delay(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(10)
    return connection


def plain_connection(port):
    return no_delay(socket.create_connection(("127.0.0.1", port)))


def take_tickets(client):
    """Reads what TLS sends behind its handshake: it is no head."""
    if not isinstance(client, ssl.SSLSocket):
        return
    client.settimeout(0)
    try:
        if client.recv(1):
            raise NoAnswer("bytes came before the head was sent")
    except ssl.SSLWantReadError:
        pass
    finally:
        client.settimeout(10)


class Origin:
    """The listening side, in the caller's thread: finds the connection on which something arrives."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port, self.connections = self.listener.getsockname()[1], set()

    def next_head(self, timeout):
        """(connection, arrival, what came behind it) once a request head is complete, or None."""
        deadline, received = time.perf_counter() + timeout, {}
        while (left := deadline - time.perf_counter()) > 0:
            for ready in select.select([self.listener, *self.connections], [], [], left)[0]:
                if ready is self.listener:
                    self.connections.add(no_delay(self.listener.accept()[0]))
                    continue
                data = self.receive(ready)
                at = time.perf_counter()
                if not data:
                    self.drop(ready)
                    continue
                received[ready] = received.get(ready, b"") + data
                if b"\r\n\r\n" in received[ready]:
                    return ready, at, received[ready].partition(b"\r\n\r\n")[2]
        return None

    @staticmethod
    def receive(connection):
        try:
            return connection.recv(65536)
        except OSError:
            return b""

    def drop(self, connection):
        self.connections.discard(connection)
        connection.close()

    def close(self):
        for connection in list(self.connections):
            self.drop(connection)
        self.listener.close()


def arrives(connection, seconds):
    """The moment something can be read, or None after so many seconds."""
    ready = select.select([connection], [], [], seconds)[0]
    return time.perf_counter() if ready else None


def response_sample(port, origin, answer, connect):
    head, content, closes = answer
    with connect(port) as client:
        client.sendall(GET)
        found = origin.next_head(10)
        if not found:
            raise NoAnswer("no request reached the origin")
        upstream = found[0]
        take_tickets(client)                # the proxy sent them before it read the request
        left = time.perf_counter()
        upstream.sendall(head)
        at = arrives(client, HELD)
        upstream.sendall(content)
        if closes:
            origin.drop(upstream)
        at = at or arrives(client, 10)
        if not at or not client.recv(65536).startswith(b"HTTP/1.1 200"):
            raise NoAnswer("no 200 reached the client")
        return at - left


def request_sample(port, origin, request, connect):
    head, content = request
    with connect(port) as client:
        left = time.perf_counter()
        client.sendall(head)
        found = origin.next_head(HELD)
        client.sendall(content)
        found = found or origin.next_head(10)
        if not found:
            raise NoAnswer("no request reached the origin")
        upstream, at, received = found
        while len(received) < len(CONTENT):
            data = origin.receive(upstream)
            if not data:
                raise NoAnswer("the request's content did not follow")
            received += data
        upstream.sendall(EMPTY)
        if not client.recv(65536).startswith(b"HTTP/1.1 200"):
            raise NoAnswer("no 200 reached the client")
        origin.drop(upstream)               # whatever ends the content, it is not the next sample's
        return at - left


def sample(port, origin, name, connect):
    if name in ANSWERS:
        return response_sample(port, origin, ANSWERS[name], connect)
    return request_sample(port, origin, REQUESTS[name], connect)


def row(take):
    samples, stop = [], time.perf_counter() + SECONDS
    take()                                  # warm-up
    while len(samples) < SAMPLES and (len(samples) < 10 or time.perf_counter() < stop):
        samples.append(take())
    return samples


def cell(samples):
    ordered = sorted(samples)
    return "%.3f / %.3f" % (statistics.median(ordered) * 1e3, ordered[int(len(ordered) * 0.99)] * 1e3)


def table(contenders):
    """Prints how long each contender holds heads; `none` is the same measure without a proxy.

    A contender's class may have its own `connect`. Gives the medians in seconds by label, a row each.
    """
    print("\nhead latency in ms, median / 99th percentile; content follows %d ms after the head" % (HELD * 1e3))
    rows = list(ANSWERS) + list(REQUESTS)
    columns, medians = {}, {}
    for label, peer, variant in [("none", None, "")] + contenders:
        found, middle = columns.setdefault(label, []), medians.setdefault(label, [])
        connect = getattr(peer, "connect", plain_connection)
        with contextlib.ExitStack() as stack:
            origin = stack.enter_context(contextlib.closing(Origin()))
            port = stack.enter_context(peer(origin.port, variant=variant)).port if peer else origin.port
            try:
                for name in rows:
                    samples = row(lambda: sample(port, origin, name, connect))
                    found.append(cell(samples))
                    middle.append(statistics.median(samples))
            except (NoAnswer, OSError) as error:
                found.append("failed: %s" % error)
    print("%-26s" % "" + "".join("%22s" % label for label in columns))
    for at, name in enumerate(rows):
        print("%-26s" % name + "".join("%22s" % (c[at] if at < len(c) else "-") for c in columns.values()))
    return medians
