"""Memory and stability of the proxy, each measure with a stated bound and a verdict; exit status 1 if one fails.

    scripts/soak [idle|stalled|million|keepalive|descriptors|websockets|tls ...] [--of NAME] [--install]
    scripts/soak [reloads|drain|sse|faults|memory|holds|http2|servers|floods ...]        (all of both, if none is named)

idle         5,000 idle keep-alive connections after one request each: at most 512 bytes of RSS for each
stalled      20 clients that read nothing of a 200 MiB answer: less than 8 MiB of RSS in all
million      2 million requests of mixed sizes and framings, 64 connections: RSS as after the first 100,000 within
             2 MiB, no descriptor leaked, at rest no CPU afterwards
keepalive    2,000 POSTs around the moment a Node origin closes idle connections: every one succeeds
descriptors  a limit of 64 descriptors and 100 clients: accepting pauses without spinning, recovers, nothing dies
websockets   9,000 WebSockets (--count): idle, at most 1 KiB of RSS for each; a 16 KiB message there and back through
             each, nothing lost, no more RSS kept than 1 KiB for each; closed, and as many again: no growth,
             and no descriptor kept
tls          2,000 idle connections of TLS: at most 16 KiB of RSS for each, and no more than nginx's; 20,000 handshakes
             (--handshakes), good and given up: at most 1 MiB more; certificates that are replaced under load
             (--replacements, 20): nothing fails; clients that read nothing; handshakes cut at every byte and garbage:
             closed in time, others undisturbed, no descriptor kept
reloads      1,000 reloads (--reloads) of five configurations in turn, under requests at full speed, 200 streams of
             numbered events, 50 tunnels and 20 kept connections: nothing fails, nothing is cut, no connection closes
             unannounced; RSS at rest as after a first run of the same load within 4 MiB, no descriptor kept
drain        SIGTERM with 200 streams and 50 idle connections: /readyz fails within 100 ms, new connections are served
             for drain_delay and refused after it, the streams end complete; those that have no end are cut at
             shutdown_grace; the exit status is 0
sse          9,000 idle streams (--streams): at most 4 KiB of RSS for each and no CPU; ended, at most a quarter of that
             is kept, and as many again take no more
faults       an access log on a full device, on a pipe that nobody reads, on a file system that fills up (root only), an
             error log on a full device, 20 descriptors left, and 1,000 rotations (--rotations) of the log: requests go
             on at their rate, the 99th percentile below 50 ms, streams unharmed; every record is written or counted
memory       64 MiB (--limit) in a memory cgroup (root, version 1; else its RSS is compared), 2,000 streams, then 1,000
             uploads of 10 MB to an origin that reads slowly: the process lives, streams unharmed, small requests
             answered, what is refused is 503; memory back when all is over
holds        half of the requests that wrk makes at full load, 64 connections: headfirst_hold_seconds below 0.1 ms at
             the median and below 5 ms at the 99.9th percentile
http2        10,000 idle streams of events on 100 connections of HTTP/2, over TLS: at most 4 KiB of RSS for each and no
             CPU; ended, at most a quarter of that is kept, and as many again take no more
servers      servers of HTTP/2 that refuse, reset, cut, leave, and give windows of a byte, for 20 s: no answer looks complete
             that is not, no POST comes twice to where it was looked at, nothing hangs, no exchange is left
floods       some sixty floods of HTTP/2 frames, each on a connection of its own for 5 s (--flood-seconds): ended before
             2,000 frames, CPU and memory bounded, others undisturbed; heavy use that is none is not ended (see
             h2floods.py, which runs single ones)
"""
import argparse, random, socket, subprocess, sys, threading, time

import exchange, origins, peers, tlssoak, tunnels

KIB, MIB = 1 << 10, 1 << 20


class Skipped(Exception):
    pass


def settled(read, seconds=10.0):
    """A figure that has not changed for half a second, or the last one."""
    deadline, last, since = time.monotonic() + seconds, read(), time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < 0.5:
        time.sleep(0.05)
        value = read()
        if value != last:
            last, since = value, time.monotonic()
    return last


def idle(peer):
    count, bound = 5000, 512
    peers.descriptors_wanted(count + 200)
    origin = exchange.Origin(exchange.ANSWERS["plain"])
    with peer(origin.port) as proxy:
        ask_from(proxy.port, 100, keep=False)                    # what the process needs once is not a connection's
        before = settled(proxy.rss_bytes)
        clients = ask_from(proxy.port, count, keep=True)
        each = (settled(proxy.rss_bytes) - before) / count
        held = proxy.descriptors()
        for client in clients:
            client.close()
    yield each <= bound, "%.0f bytes of RSS for each of %d idle connections (at most %d)" % (each, count, bound)
    yield held >= count, "%d descriptors open meanwhile: the connections were really kept" % held


def ask_from(port, count, keep):
    clients = []
    for _ in range(count):
        client = exchange.Client(port)
        client.ask()
        if keep:
            clients.append(client)
        else:
            client.close()
    return clients


def stalled(peer):
    count, bound, started = 20, 8 * MIB, []
    with origins.Origin(sizes=("200m",)) as origin, peer(origin.port) as proxy:
        warm_up = exchange.Client(proxy.port)
        warm_up.ask(get("/small"))
        before = settled(proxy.rss_bytes)
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", proxy.port), 10)
            client.sendall(get("/200m"))
            started.append(client)
        peak, stop = before, time.monotonic() + 5
        while time.monotonic() < stop:
            time.sleep(0.1)
            peak = max(peak, proxy.rss_bytes())
        begun = sum(client.recv(12) == b"HTTP/1.1 200" for client in started)
        for client in started:
            client.close()
        warm_up.ask(get("/small"))
    grown = peak - before
    yield grown < bound, "%.2f MiB of RSS more with %d clients that read nothing (less than %d MiB)" % (
        grown / MIB, count, bound / MIB)
    yield begun == count, "%d of %d had their answer's beginning" % (begun, count)


def get(path):
    return b"GET %s HTTP/1.1\r\nHost: soak.example\r\n\r\n" % path.encode()


def million(peer, total=2_000_000, first=100_000):
    bound, script = 2 * MIB, __file__.replace("soak.py", "mixed.lua")
    done, errors = 0, []
    with origins.Origin() as origin, peer(origin.port) as proxy:

        def run_until(count):
            nonlocal done
            while done < count:
                requests, _, trouble = origins.wrk(proxy.port, "/", 64, 5 if count == first else 20, script)
                done += requests
                errors.extend([trouble] if "Socket errors" in trouble else [])     # its 404s are meant

        run_until(first)
        rss_first, descriptors_first = settled(proxy.rss_bytes), settled(proxy.descriptors)
        at_first = done
        run_until(total)
        rss_last, descriptors_last = settled(proxy.rss_bytes), settled(proxy.descriptors)
        cpu = proxy.cpu_seconds()
        time.sleep(3)
        cpu = proxy.cpu_seconds() - cpu
        alive = proxy.is_alive()
    grown = rss_last - rss_first
    yield grown <= bound, "RSS %.2f MiB after %d requests, %.2f MiB after %d (at most %d MiB more)" % (
        rss_first / MIB, at_first, rss_last / MIB, done, bound / MIB)
    yield descriptors_last <= descriptors_first + 64, "%d descriptors, %d after the first (pool: at most 64 more)" % (
        descriptors_last, descriptors_first)
    yield cpu == 0, "%.2f s of CPU in 3 s at rest (none)" % cpu
    yield not errors, "no connection failed" if not errors else "; ".join(errors)
    yield alive, "the process lives"


NODE = """
const http = require("http")
const server = http.createServer((request, response) => {
    request.resume().on("end", () => response.end("done"))
})
if (process.argv[1] !== "default") server.keepAliveTimeout = Number(process.argv[1])
server.listen(0, "127.0.0.1", () => console.log(server.address().port))
"""
POST = b"POST / HTTP/1.1\r\nHost: soak.example\r\nContent-Length: 7\r\n\r\norder=1"


def keepalive(peer):
    """Clients post at the same time, so that each has an upstream connection, then wait each for a time of its own."""
    try:
        node = peers.find("node", "nodejs")
    except peers.CannotStart as error:
        raise Skipped(str(error))
    for timeout, clients, rounds in (("500", 50, 20), ("default", 100, 10)):
        failed = []
        with subprocess.Popen([node, "-e", NODE, timeout], stdout=subprocess.PIPE, text=True) as origin:
            try:
                port = int(origin.stdout.readline())
                seconds = closes_after(port)
                with peer(port) as proxy:
                    threads = [threading.Thread(target=post_repeatedly, args=(proxy.port, seconds, rounds, failed))
                               for _ in range(clients)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
            finally:
                origin.terminate()
        yield not failed, "%d of %d POSTs succeeded around the %.3f s after which the origin closes%s" % (
            clients * rounds - len(failed), clients * rounds, seconds, ": " + failed[0] if failed else "")


def closes_after(port):
    """When the origin really closes an idle connection (newer releases of Node add a second): the median of three."""
    measured = []
    for _ in range(3):
        client = exchange.Client(port)
        client.ask(POST)
        started = time.monotonic()
        client.socket.recv(1)
        measured.append(time.monotonic() - started)
        client.close()
    return sorted(measured)[1]


def post_repeatedly(port, seconds, rounds, failed):
    client = exchange.Client(port)
    for _ in range(rounds):
        try:
            if client.ask(POST) != b"done":
                raise exchange.BadAnswer("another content")
        except (exchange.BadAnswer, OSError) as error:
            failed.append(str(error))
            client.close()
            client = exchange.Client(port)
        # Most fall into the few milliseconds in which the origin closes, some well before and after.
        spread = random.choice((0.004, 0.004, 0.1))
        time.sleep(seconds + random.uniform(-spread, spread))
    client.close()


def descriptors(peer):
    class Unbounded(peer):
        extra = "max_connections 1000;"     # without it, clients get half of the descriptors and none runs out
    limit, count = 64, 100
    origin = exchange.Origin(exchange.ANSWERS["plain"])
    with Unbounded(origin.port, limit=limit) as proxy:
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", proxy.port), 10)      # in the backlog at the least
            client.sendall(exchange.REQUEST)
            clients.append(client)
        time.sleep(1)                       # the proxy is at its limit by now; what it does there is measured next
        held, cpu = proxy.descriptors(), proxy.cpu_seconds()
        time.sleep(2)
        cpu = proxy.cpu_seconds() - cpu
        statuses = [status for status in map(status_of, clients) if status]
        for client in clients:
            client.close()
        started = time.monotonic()
        recovered = first_answer(proxy.port, 10)
        took = time.monotonic() - started
        alive = proxy.is_alive()
    yield alive, "the process lives"
    yield held >= limit - 8, "%d of %d descriptors in use with %d clients: the limit was reached" % (held, limit, count)
    yield len(statuses) >= 10 and set(statuses) <= {b"200", b"503"}, (
        "%d of %d clients answered meanwhile, %d of them with 200, the others with 503" % (
            len(statuses), count, statuses.count(b"200")))
    yield cpu < 0.2, "%.2f s of CPU in 2 s at the limit (less than 0.2 s: it does not spin)" % cpu
    yield recovered, "accepting again %.1f s after the clients had gone (at most 10 s)" % took


def status_of(client):
    """The status a client has got by now, or None."""
    client.settimeout(0)
    try:
        return client.recv(12)[9:]
    except OSError:
        return None


def first_answer(port, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            client = exchange.Client(port, timeout=1)
            client.ask()
            client.close()
            return True
        except (exchange.BadAnswer, OSError):
            time.sleep(0.1)
    return False


def websockets(peer, count):
    bound, limit = KIB, 2 * count + 2000                         # the proxy has two for each, the ends one
    spare = 64                                                   # pipes that a proxy keeps for the next bytes
    peers.descriptors_wanted(limit)
    with tunnels.Origin() as origin, tunnels.PEERS[peer.name](origin.port, limit=limit) as proxy:
        with tunnels.Holder(proxy.port, 100) as client:          # what the process needs once is not a tunnel's
            client.message()
        held_before = settled(proxy.descriptors)
        before = settled(proxy.rss_bytes)
        with tunnels.Holder(proxy.port, count) as client:
            held = settled(proxy.descriptors)
            idle_rss = settled(proxy.rss_bytes) - before
            message = client.message()
            messages_rss = settled(proxy.rss_bytes) - before
            held_later = settled(proxy.descriptors)
        held_after = settled(proxy.descriptors)
        after_rss = settled(proxy.rss_bytes) - before
        with tunnels.Holder(proxy.port, count) as client:
            client.message()
            again_rss = settled(proxy.rss_bytes) - before
        held_at_last = settled(proxy.descriptors)
        alive = proxy.is_alive()
    yield idle_rss / count <= bound, "%.0f bytes of RSS for each of %d idle WebSockets (at most %d)" % (
        idle_rss / count, count, bound)
    wanted = held_before + 2 * count
    yield wanted <= min(held, held_later) and max(held, held_later) <= wanted + spare, (
        "%d descriptors open meanwhile, %d after the messages: both sides of each, and at most %d more" % (
            held, held_later, spare))
    yield message["whole"] == count, "%d of %d gave 16 KiB back unchanged, in %.1f s" % (
        message["whole"], count, message["seconds"])
    yield messages_rss / count <= bound, "%.0f bytes of RSS for each after the messages (at most %d)" % (
        messages_rss / count, bound)
    yield max(held_after, held_at_last) <= held_before, "%d and %d descriptors when they had closed, %d before" % (
        held_after, held_at_last, held_before)
    yield again_rss <= messages_rss + MIB, (
        "RSS more than before: %.2f MiB when they had closed, %.2f MiB with as many again (at most %.2f MiB)" % (
            after_rss / MIB, again_rss / MIB, (messages_rss + MIB) / MIB))
    yield alive, "the process lives"


def tls(peer, handshakes, replacements):
    if peer is not peers.Headfirst:
        raise Skipped("only Headfirst is measured, and nginx beside it")
    yield from tlssoak.measures(settled, handshakes, replacements)


MEASURES = {measure.__name__: measure
            for measure in (idle, stalled, million, keepalive, descriptors, websockets, tls)}


def main():
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--of", default="headfirst", choices=sorted(peers.PEERS), help="the proxy to measure")
    parser.add_argument("--count", type=int, default=9000, help="WebSockets to keep (default 9000)")
    parser.add_argument("--handshakes", type=int, default=20_000, help="handshakes of TLS (default 20000)")
    parser.add_argument("--replacements", type=int, default=20, help="certificates to replace (default 20)")
    parser.add_argument("--install", action="store_true", help="install nginx-light, wrk and nodejs if missing")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.measures if name not in MEASURES]:
        parser.error("unknown: %s; there are %s" % (", ".join(unknown), ", ".join(MEASURES)))
    failures = 0
    for name in arguments.measures or MEASURES:
        try:
            options = {"websockets": {"count": arguments.count}, "tls": {
                "handshakes": arguments.handshakes, "replacements": arguments.replacements}}.get(name, {})
            for passed, text in MEASURES[name](peers.PEERS[arguments.of], **options):
                failures += not passed
                print("%s %-12s %s" % ("PASS" if passed else "FAIL", name, text), flush=True)
        except Skipped as reason:
            print("SKIP %-12s %s" % (name, reason), flush=True)
        except (peers.CannotStart, exchange.BadAnswer, OSError) as error:
            failures += 1
            print("FAIL %-12s could not be measured: %s" % (name, error), flush=True)
    print("soak: %s" % ("%d FAILED" % failures if failures else "passed"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
