"""Servers of HTTP/2 that misbehave: what `scripts/soak servers` measures. Yields (passed, text), as all of soak.py.

    scripts/measure/h2servers.py [--seconds S] [--clients N] [--seed SEED]

A server refuses streams, resets them before, within and behind an answer, says GOAWAY and serves on, or leaves, cuts its
connection within any frame, answers before it has the request, gives windows of a byte and gives them back in pieces. Clients
of HTTP/1.1 ask it through the proxy with GET and POST and look at what they get:

- an answer that is complete is the answer to this request, whole, and its server had said all of it;
- a POST comes to a server again only if the first had not looked at it: REFUSED_STREAM, or above GOAWAY's last stream;
- the content of a POST arrives as it was sent;
- nothing takes longer than 15 s, and nothing is left in the proxy.

Needs the Python package h2.
"""
import argparse, asyncio, collections, hashlib, os, random, sys, time, urllib.request

import peers

PATIENCE = 15.0
SIZES = [0, 1, 10, 5000, 70_000, 300_000]
WINDOWS = [1, 100, 65_535, 1 << 20]
UPLOADS = [0, 5, 3000, 90_000]


class Proxy(peers.Headfirst):
    def command(self):
        self.admin = peers.free_port()
        self.extra = "admin { bind 127.0.0.1:%d; }" % self.admin
        command = super().command()
        with open(self.path("proxy.conf")) as file:
            text = file.read()
        self.path("proxy.conf", text.replace("upstream origin {", "upstream origin { protocol http2;"))
        return command


def content(name, size):
    """What belongs to a request, and nothing else."""
    block = hashlib.sha256(name.encode()).digest()
    return (block * (size // len(block) + 1))[:size]


class Record:
    """What servers know of a request."""

    def __init__(self):
        self.seen = self.refused = 0
        self.is_said = False                # whether a whole answer was given out


class Truth:
    def __init__(self, seed):
        self.random, self.records = random.Random(seed), collections.defaultdict(Record)
        self.counts, self.wrong = collections.Counter(), []

    def happens(self, probability):
        return self.random.random() < probability


def server_of(truth):
    """The class of a server's connections."""
    import h2.config, h2.connection, h2.events, h2.exceptions, h2.settings
    import hyperframe.frame

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.is_over, self.last, self.requests = transport, False, None, {}
            self.window = asyncio.Event()
            self.left = truth.random.randrange(200, 400_000) if truth.happens(0.3) else None
            self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
            self.h2.initiate_connection()
            if truth.happens(0.5):
                self.h2.update_settings(
                    {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: truth.random.choice(WINDOWS)})
            truth.counts["connections"] += 1
            self.flush()

        def flush(self):
            data = self.h2.data_to_send()
            if self.is_over or not data:
                return
            if self.left is not None and len(data) > self.left:
                truth.counts["cut within a frame"] += 1
                self.transport.write(data[:self.left])
                self.end(self.transport.abort if truth.happens(0.5) else self.transport.close)
                return
            if self.left is not None:
                self.left -= len(data)
            self.transport.write(data)

        def end(self, how):
            how()
            self.is_over = True
            self.wake()

        def wake(self):
            self.window.set()
            for request in self.requests.values():
                request.news.set()

        def connection_lost(self, _):
            self.is_over = True
            self.wake()

        def data_received(self, data):
            if self.is_over:
                return
            try:
                events = self.h2.receive_data(data)
            except h2.exceptions.ProtocolError as error:
                # Behind its own GOAWAY the library hears nothing more.
                if self.h2.state_machine.state != h2.connection.ConnectionState.CLOSED or self.last is None:
                    truth.wrong.append("a server sees what it must not: %r" % error)
                self.flush()
                self.end(self.transport.close)
                return
            for event in events:
                self.take(event)
            self.flush()

        def take(self, event):
            request = self.requests.get(getattr(event, "stream_id", None))
            if isinstance(event, h2.events.RequestReceived):
                if self.last is None or event.stream_id <= self.last:
                    request = self.requests[event.stream_id] = Request(self, event.stream_id, dict(event.headers))
                    request.task = asyncio.ensure_future(request.serve())
            elif isinstance(event, h2.events.DataReceived):
                if request:
                    request.content += event.data
                self.give_back(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)) and request:
                request.is_whole |= isinstance(event, h2.events.StreamEnded)
                request.is_reset |= isinstance(event, h2.events.StreamReset)
                self.wake()
            elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
                self.window.set()

        def give_back(self, count, stream):
            part = truth.random.randrange(1, count) if count > 3 and truth.happens(0.1) else count
            if part < count:
                asyncio.get_running_loop().call_later(0.02, self.give_back, count - part, stream)
            if self.is_over or not part:
                return
            for where in (None, stream):
                try:
                    self.h2.increment_flow_control_window(part, where)
                except (h2.exceptions.ProtocolError, KeyError):
                    pass                    # the stream is over
            self.flush()

        def goaway(self):
            self.last = max(self.requests)
            self.transport.write(hyperframe.frame.GoAwayFrame(0, last_stream_id=self.last).serialize())

    class Request:
        def __init__(self, server, stream, head):
            self.server, self.stream, self.post = server, stream, head[":method"] == "POST"
            self.name, self.content, self.is_whole, self.is_reset = head["x-name"], b"", False, False
            self.news, self.record = asyncio.Event(), truth.records[head["x-name"]]
            self.record.seen += 1

        @property
        def is_gone(self):
            return self.is_reset or self.server.is_over

        async def serve(self):
            try:
                await self.answer()
            except h2.exceptions.ProtocolError:
                # Its stream or its connection ended while it was answered.
                truth.counts["overtaken"] += 1

        def reset(self, what, *codes):
            truth.counts[what] += 1
            self.server.h2.reset_stream(self.stream, truth.random.choice(codes))
            self.server.flush()

        async def whole_request(self):
            while not self.is_whole and not self.is_gone:
                self.news.clear()
                await self.news.wait()
            if self.is_whole and self.post and self.content != content(self.name, len(self.content)):
                truth.wrong.append("other content went up")

        async def answer(self):
            server, dice = self.server, truth.random.random()
            if dice < 0.05:
                self.record.refused += 1
                return self.reset("refused", 7)
            if dice < 0.08:
                return self.reset("reset before the answer", 0, 1, 2, 5, 8)
            if dice < 0.13 and server.last is None:
                truth.counts["GOAWAY"] += 1
                server.goaway()
                if dice < 0.10:
                    await asyncio.sleep(0.05)
                    return server.end(server.transport.close)
            is_early = truth.happens(0.1)
            if not is_early:
                await self.whole_request()
            if truth.happens(0.2):
                await asyncio.sleep(0.1 * truth.random.random())
            if self.is_gone:
                return
            await self.send()
            if is_early and not self.is_whole and not self.is_gone:
                self.reset("answered before the request was there", 0)

        async def send(self):
            server, size = self.server, random.Random(self.name).choice(SIZES)
            for _ in range(truth.random.choice([0, 0, 0, 1, 2])):
                server.h2.send_headers(self.stream, [(":status", "103"), ("link", "</x>")])
                server.flush()
            fields = [(":status", "200"), ("x-name", self.name)]
            has_length, has_trailers = truth.happens(0.5), truth.happens(0.2)
            if has_length:
                fields.append(("content-length", str(size)))
            server.h2.send_headers(self.stream, fields)
            server.flush()
            left = content(self.name, size)
            cut = truth.random.randrange(size + 1) if truth.happens(0.15) else None
            while left:
                room = min(server.h2.local_flow_control_window(self.stream), 16384)
                if room <= 0:
                    server.window.clear()
                    await server.window.wait()
                    if self.is_gone:
                        return
                    continue
                if cut is not None and size - len(left) >= cut:
                    return self.reset("reset within the answer", 0, 2, 8)
                piece, left = left[:room], left[room:]
                # Behind all that was declared no reset says that something is missing.
                self.record.is_said |= has_length and not left
                server.h2.send_data(self.stream, piece)
                server.flush()
                if truth.happens(0.05):
                    await asyncio.sleep(0.005)
                if self.is_gone:
                    return
            if cut is not None and size:
                return self.reset("reset behind the content", 2, 8)
            self.record.is_said = True
            if has_trailers:
                server.h2.send_headers(self.stream, [("x-sum", "1")], end_stream=True)
            else:
                server.h2.end_stream(self.stream)
            server.flush()

    return Server


class Closed(Exception):
    """The proxy has ended the connection, within an answer or behind it."""


class Client:
    """One of HTTP/1.1 that asks one request after the other."""

    def __init__(self, truth, number, port):
        self.truth, self.number, self.port, self.reader, self.writer = truth, number, port, None, None

    async def run(self, until):
        count = 0
        while time.monotonic() < until:
            count += 1
            name, post = "%d-%d" % (self.number, count), self.truth.happens(0.5)
            if not self.writer:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                await asyncio.wait_for(self.ask(name, post), PATIENCE)
            except asyncio.TimeoutError:
                self.truth.wrong.append("%s took longer than %d s" % (name, PATIENCE))
                self.leave()
            except (Closed, ConnectionError, asyncio.IncompleteReadError):
                self.truth.counts["connection ended"] += 1
                self.leave()
            record = self.truth.records[name]
            if post and record.seen - record.refused > 1:
                self.truth.wrong.append("POST %s was seen %d times" % (name, record.seen))
        self.leave()

    def leave(self):
        if self.writer:
            self.writer.close()
        self.writer = None

    async def upload(self, pieces, chunked):
        for piece in pieces:
            self.writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await self.writer.drain()
            if self.truth.happens(0.2):
                await asyncio.sleep(0.003)
        if chunked:
            self.writer.write(b"0\r\n\r\n")

    async def ask(self, name, post):
        size = self.truth.random.choice(UPLOADS) if post else 0
        chunked, data = post and self.truth.happens(0.5), content(name, size)
        framing = "" if not post else "Transfer-Encoding: chunked\r\n" if chunked else "Content-Length: %d\r\n" % size
        self.writer.write(("%s /%s HTTP/1.1\r\nHost: a\r\nX-Name: %s\r\n%s\r\n" % (
            "POST" if post else "GET", name, name, framing)).encode())
        upload = asyncio.ensure_future(self.upload([data[at:at + 20_000] for at in range(0, size, 20_000)], chunked))
        try:
            status, fields, got = await self.answer()
            self.truth.counts[status] += 1
            if status == 200:
                self.judge(name, fields, got)
            await upload
            if fields.get("connection") == "close":
                raise Closed
        finally:
            upload.cancel()

    async def answer(self):
        status = 0
        while status < 200:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            status, fields = int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:-2])
        if "content-length" in fields:
            return status, fields, await self.reader.readexactly(int(fields["content-length"]))
        got = b""
        while size := int(await self.line(), 16):
            got += await self.reader.readexactly(size)
            await self.line()
        while await self.line():
            pass
        return status, fields, got

    async def line(self):
        line = await self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise Closed
        return line[:-2]

    def judge(self, name, fields, got):
        if fields.get("x-name") != name:
            self.truth.wrong.append("%s got another's answer" % name)
        elif got != content(name, random.Random(name).choice(SIZES)):
            self.truth.wrong.append("%s got %d bytes, which are not its answer" % (name, len(got)))
        elif not self.truth.records[name].is_said:
            self.truth.wrong.append("%s looks complete, and its server had not said all" % name)


async def play(truth, seconds, clients):
    """(how the proxy died, if it did; exchanges that it still has)"""
    server = await asyncio.get_running_loop().create_server(server_of(truth), "127.0.0.1", 0)
    with Proxy(server.sockets[0].getsockname()[1]) as proxy:
        until = time.monotonic() + seconds
        await asyncio.gather(*(Client(truth, number, proxy.port).run(until) for number in range(clients)))
        running = None
        for _ in range(50):
            await asyncio.sleep(0.1)
            if not proxy.is_alive():
                return proxy.output().strip()[-300:] or "ended", None
            running = await asyncio.to_thread(figure, proxy.admin, "headfirst_exchanges")
            if running == 0:
                break
        return None, running


def figure(port, name):
    """A gauge of the admin listener."""
    with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % port, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def measures(_, seconds=20.0, clients=40, seed=None):
    seed = random.randrange(1 << 32) if seed is None else seed
    truth = Truth(seed)
    died, running = asyncio.run(play(truth, seconds, clients))
    yield died is None, "the proxy lives" if died is None else "THE PROXY DIED: " + died
    told = ", ".join("%d %s" % (count, what) for what, count in sorted(truth.counts.items(), key=str))
    yield truth.counts[200] > 0 and len(truth.counts) > 5, "servers of HTTP/2 that misbehave, seed %d: %s" % (seed, told)
    yield not truth.wrong, "%d things wrong%s" % (len(truth.wrong), "".join("; " + text for text in truth.wrong[:5]))
    if died is None:
        yield running == 0, "%g exchanges left behind" % running


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--seed", type=int)
    options, failures = parser.parse_args(), 0
    if not os.access(os.environ.get("HEADFIRST_BINARY", ""), os.X_OK):
        print("error: HEADFIRST_BINARY names no program", file=sys.stderr)
        return 2
    for passed, text in measures(None, options.seconds, options.clients, options.seed):
        failures += not passed
        print("%s %s" % ("PASS" if passed else "FAIL", text), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
