"""Streams of HTTP/2 that idle: what `scripts/soak http2` measures. Yields (passed, text), as all of soak.py.

Each connection has as many streams of events as it may have, over TLS; each stream has its own connection to the origin,
as HTTP/1.1 needs it. `floods` are in h2floods.py, and have a process of their own.
"""
import time

import http2, peers, streamload, tls

KIB, MIB = 1 << 10, 1 << 20
CONNECTIONS, STREAMS = 100, 100
EACH_MAX = 4 * KIB
PATIENCE = 60.0
REST = 5.0


class Proxy(http2.Headfirst):
    def command(self):
        command = super().command()
        server = "server 127.0.0.1:%d;" % self.origin_port
        tls.replace(self.path("proxy.conf"), server, server + " keepalive 64 idle=1s;")
        return command

    sockets, ticks = streamload.Proxy.sockets, streamload.Proxy.ticks


class Streams:
    """Connections with streams that have had their first event."""

    def __init__(self, port, connections):
        self.clients, self.heads, self.events, self.trouble = [], 0, 0, []
        for _ in range(connections):
            client = http2.Client(port)
            client.greet()
            client.send(b"".join(http2.get(client.stream(), "/events?events=0&every=0") for _ in range(STREAMS)))
            self.clients.append(client)
            self.read(client, STREAMS)

    def read(self, client, wanted):
        """The heads and first events of a connection's streams."""
        deadline, events = time.monotonic() + PATIENCE, 0
        while events < wanted and not client.end and time.monotonic() < deadline:
            for kind, flags, _, payload in client.read(1):
                if kind == http2.HEADERS and not flags & http2.END_STREAM:
                    self.heads += 1
                elif kind == http2.DATA and payload == b"data: 0\n\n" and not flags & http2.END_STREAM:
                    events += 1
                elif kind in (http2.HEADERS, http2.DATA, http2.RST_STREAM):
                    self.trouble.append("a stream ended")
        self.events += events
        if client.end:
            self.trouble.append(client.end[1])

    def rest(self):
        """What came since, which is nothing, when all is well."""
        for client in self.clients:
            for kind, _, _, _ in client.read(0):
                self.trouble.append("a frame of type %d while idle" % kind)
            if client.end:
                self.trouble.append(client.end[1])

    def stop(self):
        """Half of the connections give each stream up before they close, half only close."""
        for at, client in enumerate(self.clients):
            if at % 2:
                client.send(b"".join(http2.reset(stream) for stream in range(1, client.next_stream, 2)))
            client.close()

    def said(self):
        return ": %s (%d)" % (self.trouble[0], len(self.trouble)) if self.trouble else ""


def measures(settled, connections=CONNECTIONS):
    """settled: soak.py's."""
    count = connections * STREAMS
    limit = count + 4 * connections + 2000
    peers.descriptors_wanted(limit)
    rounds = []
    with streamload.Origin() as origin, Proxy(origin.port, limit=limit) as proxy:
        first = Streams(proxy.port, 1)                          # what the process needs once
        first.stop()
        time.sleep(2)
        before, held_before = settled(proxy.rss_bytes), settled(proxy.sockets)
        for _ in range(2):
            load = Streams(proxy.port, connections)
            open_rss, held = settled(proxy.rss_bytes), settled(proxy.sockets)
            ticks = proxy.ticks()
            time.sleep(REST)
            ticks = proxy.ticks() - ticks
            load.rest()
            load.stop()
            time.sleep(2)
            rounds.append((load, open_rss, held, ticks, settled(proxy.rss_bytes), settled(proxy.sockets)))
        alive = proxy.is_alive()
    (found, open_rss, held, ticks, after, held_after), (again, again_rss, _, again_ticks, last, held_last) = rounds
    yield all(one.heads == one.events == count and not one.trouble for one in (found, again)), (
        "%d and %d of %d streams on %d connections of HTTP/2, each with its first event and then idle%s" % (
            found.events, again.events, count, connections, found.said() or again.said()))
    yield held == held_before + count + connections, (
        "%d sockets meanwhile, %d before: one for each connection, and one to the origin for each stream" % (
            held, held_before))
    yield ticks + again_ticks == 0, "%d and %d ticks of CPU in %g s of rest (none)" % (ticks, again_ticks, REST)
    yield (open_rss - before) / count <= EACH_MAX, "%.0f bytes of RSS for each stream (at most %d)" % (
        (open_rss - before) / count, EACH_MAX)
    kept = count * EACH_MAX // 4
    yield max(after, last) - before <= kept, (
        "RSS %.2f MiB, %.2f MiB with all, %.2f MiB when they had ended, %.2f MiB after as many again (at most %.2f)" % (
            before / MIB, open_rss / MIB, after / MIB, last / MIB, (before + kept) / MIB))
    yield again_rss <= open_rss + MIB, "RSS %.2f MiB with as many again (at most %.2f)" % (
        again_rss / MIB, (open_rss + MIB) / MIB)
    yield alive and max(held_after, held_last) <= held_before, "%d and %d sockets when they had ended, %d before" % (
        held_after, held_last, held_before)
