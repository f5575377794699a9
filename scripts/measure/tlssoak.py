"""TLS under load and under ill-treatment: what `scripts/soak tls` measures. Yields (passed, text), as all of soak.py.

tlsload.c is the client where there are many; what is cut or malformed comes from Python's memory BIOs, so that every
byte is known.
"""
import json, os, random, select, signal, socket, ssl, subprocess, threading, time

import exchange, origins, peers, tls

KIB, MIB = 1 << 10, 1 << 20
HELD = 2000
CLIENTS = POOLED = 50                       # of the mixed handshakes; as many connections to the origin may be kept
HANDSHAKE_TIMEOUT = 2.0                     # seconds, as configured here
GRACE = 1.5                                 # seconds more in which a connection has to be gone
REPLACED_WITHIN = 6.0                       # seconds: files are looked at every second and have to rest for one
REQUEST = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


def measures(settled, handshakes, replacements):
    """settled: soak.py's. handshakes, replacements: how many."""
    yield from idle(settled)
    yield from churn(settled, handshakes)
    yield from replaced(replacements)
    yield from stalled(settled)
    yield from cut(settled)


# Idle connections

class Load:
    """tlsload in the background; stopped by the end of its stdin."""

    def __init__(self, *words):
        self.process = subprocess.Popen([tls.load_program(), *map(str, words)], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        return self

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise peers.CannotStart("tlsload ended: " + self.process.communicate()[1].strip()[:300])
        return json.loads(line)

    def stop(self):
        self.process.stdin.close()
        return self.line()

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def idle(settled):
    bound = 16 * KIB
    peers.descriptors_wanted(2 * HELD + 200)
    each = {}
    with origins.Origin() as origin:
        for version in ("1.3", "1.2"):
            for name in ("headfirst", "nginx"):
                try:
                    proxy = tls.PEERS[name](origin.port, limit=2 * HELD + 1000)
                    with proxy:
                        before, after, found = held_memory(proxy, version, settled)
                except peers.CannotStart as reason:
                    if name == "headfirst":
                        raise
                    yield True, "nginx is not compared: %s" % reason
                    continue
                each[name] = (after - before) / HELD
                if name == "headfirst":
                    yield each[name] <= bound, "%.0f bytes of RSS for each of %d idle connections of TLS %s " \
                        "(at most %d)" % (each[name], HELD, version, bound)
                    yield found["open"] == HELD and not found["failures"], "%d of them really open, %s" % (
                        found["open"], found["negotiated"])
            if "nginx" in each:
                yield each["headfirst"] <= each["nginx"], "%.0f bytes, nginx %.0f (no more than nginx)" % (
                    each["headfirst"], each["nginx"])


def held_memory(proxy, version, settled):
    with Load("hold", proxy.port, 100, version, "/small") as first:      # what the process needs once
        first.line()
        first.stop()
    before = settled(proxy.rss_bytes)
    with Load("hold", proxy.port, HELD, version, "/small") as load:
        found = load.line()
        after = settled(proxy.rss_bytes)
        load.stop()
    return before, after, found


# Many handshakes

def churn(settled, handshakes):
    bound = MIB
    with origins.Origin() as origin, tls.Headfirst(origin.port) as proxy:
        for version in ("1.3", "1.2"):
            tls.client("churn", proxy.port, CLIENTS, max(handshakes // 10, 2000), version, "/small")
        before, held_before = settled(proxy.rss_bytes), settled(proxy.descriptors)
        for version in ("1.3", "1.2"):
            found = tls.client("churn", proxy.port, CLIENTS, handshakes // 2, version, "/small", timeout=600)
            yield not found["failures"], (
                "TLS %s: %d good handshakes and %d given up or garbage, mixed; %d failed%s" % (
                    version, found["handshakes"], found["aborted"], found["failures"],
                    ": " + found["first_failure"] if found["failures"] else ""))
        after, held_after = settled(proxy.rss_bytes), settled(proxy.descriptors)
        cpu = proxy.cpu_seconds()
        time.sleep(2)
        cpu = proxy.cpu_seconds() - cpu
        alive = proxy.is_alive()
    yield after - before <= bound, "RSS %.2f MiB, %.2f MiB after %d more (at most %.2f MiB more)" % (
        before / MIB, after / MIB, handshakes, bound / MIB)
    yield held_after <= held_before + POOLED, "%d descriptors, %d before (pool: at most %d more)" % (
        held_after, held_before, POOLED)
    yield cpu <= 0.02, "%.2f s of CPU in 2 s at rest" % cpu
    yield alive, "the process lives"


# Certificates that change

class Replaced(tls.Headfirst):
    """Two policies: `localhost` has files that are renamed over, `mounted` a folder as Kubernetes mounts secrets."""

    def __init__(self, *words, **named):
        super().__init__(*words, **named)
        self.prints = {}
        for name, host in (("r0", "localhost"), ("r1", "localhost"), ("m0", "mounted"), ("m1", "mounted")):
            tls.make_certificate(self.folder, name, "rsa" if name == "r1" else "p256", host)
            with open(self.path(name + ".pem")) as file:
                self.prints[name] = ssl.PEM_cert_to_DER_cert(file.read())
        os.mkdir(self.path("mount"))
        for end in ("pem", "key"):
            os.symlink("..data/tls." + end, self.path("mount/tls." + end))
        self.replace(0)
        self.listener_extra = "tls mounted { certificate %s %s; }" % (
            self.path("mount/tls.pem"), self.path("mount/tls.key"))

    def replace(self, turn):
        """The files of this turn, by atomic renames."""
        for end in (".pem", ".key"):
            copy(self.path("r%d%s" % (turn % 2, end)), self.path("fresh"))
            os.rename(self.path("fresh"), self.path("site" + end))
        version = "mount/..%d" % turn
        os.mkdir(self.path(version))
        for end in (".pem", ".key"):
            copy(self.path("m%d%s" % (turn % 2, end)), self.path(version + "/tls" + end))
        os.symlink("..%d" % turn, self.path("mount/..fresh"))
        os.rename(self.path("mount/..fresh"), self.path("mount/..data"))

    def served(self, host):
        """The certificate that a client gets now."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port), 10) as plain:
            with context.wrap_socket(plain, server_hostname=host) as client:
                return client.getpeercert(True)


def copy(source, target):
    with open(source, "rb") as file, open(target, "wb") as other:
        other.write(file.read())


def replaced(count):
    """Every second one is told of by SIGHUP, too; the others are found by looking."""
    slowest, missed, stale, first = 0.0, 0, [], max(2, count // 10)
    with origins.Origin() as origin, Replaced(origin.port) as proxy:
        with Load("exchanges", proxy.port, 8, 0, "1.3", "/small") as fresh, \
                Load("exchanges", proxy.port, 4, 0, "1.2", "/small") as older, \
                Load("requests", proxy.port, 8, 0, "1.3", "/16k") as kept:
            for turn in range(1, count + 1):
                proxy.replace(turn)
                started = time.monotonic()
                if turn % 2:
                    os.kill(proxy.main_pid(), signal.SIGHUP)
                wanted = [proxy.prints["%s%d" % (kind, turn % 2)] for kind in "rm"]
                while time.monotonic() - started < REPLACED_WITHIN:
                    if [proxy.served("localhost"), proxy.served("mounted")] == wanted:
                        break
                    time.sleep(0.05)
                else:
                    missed += 1
                    stale.append(turn)
                slowest = max(slowest, time.monotonic() - started)
                if turn == first:
                    before = proxy.rss_bytes()
            after = proxy.rss_bytes()
            found = [load.stop() for load in (fresh, older, kept)]
        alive, told = proxy.is_alive(), proxy.output()
    yield not missed, "%d of %d replacements served within %.0f s, the slowest after %.1f s%s" % (
        count - missed, count, REPLACED_WITHIN, slowest, ": not %s" % stale[:9] if stale else "")
    failures = sum(one["failures"] for one in found)
    yield not failures and all(one["requests"] for one in found), (
        "%d handshakes and %d requests meanwhile, %d failed%s" % (
            sum(one["handshakes"] for one in found), sum(one["requests"] for one in found), failures,
            "".join(": " + one["first_failure"] for one in found if one["failures"])))
    yield after - before <= MIB, "RSS %.2f MiB after %d replacements, %.2f MiB after %d (at most %.2f MiB more)" % (
        before / MIB, first, after / MIB, count, 1)
    yield alive and "error" not in told, "the process lives" if "error" not in told else "it said: %s" % told[-300:]


# Clients that read nothing

def stalled(settled):
    count, bound = 20, 8 * MIB
    with origins.Origin(sizes=("200m",)) as origin, tls.Headfirst(origin.port) as proxy:
        with Watch(proxy.port) as watch:
            before, clients = settled(proxy.rss_bytes), []
            for _ in range(count):
                client = tls.Headfirst.connect(proxy.port)
                client.sendall(REQUEST % b"/200m")
                clients.append(client)
            peak, stop = before, time.monotonic() + 4
            while time.monotonic() < stop:
                time.sleep(0.1)
                peak = max(peak, proxy.rss_bytes())
            cpu = proxy.cpu_seconds()
            time.sleep(1)
            cpu = proxy.cpu_seconds() - cpu
            begun = sum(client.recv(12) == b"HTTP/1.1 200" for client in clients)
            for client in clients:
                client.close()
    yield peak - before < bound, "%.2f MiB of RSS more with %d clients that read nothing of 200 MiB (less than %d)" % (
        (peak - before) / MIB, count, bound / MIB)
    yield begun == count, "%d of %d had their answer's beginning" % (begun, count)
    yield cpu < 0.1, "%.2f s of CPU in 1 s meanwhile (less than 0.1)" % cpu
    yield watch.verdict()


class Watch:
    """A well-behaved client beside the others: a new handshake and a request every 20 ms."""

    def __init__(self, port):
        self.port, self.took, self.failed, self.over = port, [], [], threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def run(self):
        while not self.over.wait(0.02):
            started = time.monotonic()
            try:
                with tls.Headfirst.connect(self.port) as client:
                    client.sendall(REQUEST % b"/small")
                    answer = b""
                    while not exchange.is_whole(answer):
                        data = client.recv(65536)
                        if not data:
                            raise exchange.BadAnswer("closed")
                        answer += data
            except (OSError, exchange.BadAnswer) as error:
                self.failed.append(str(error))
            self.took.append(time.monotonic() - started)

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def verdict(self):
        return not self.failed and len(self.took) > 10 and max(self.took) < 1, (
            "%d others meanwhile, %d failed%s, the slowest took %.0f ms (less than 1000)" % (
                len(self.took), len(self.failed), ": " + self.failed[0] if self.failed else "",
                max(self.took, default=0) * 1e3))


# Handshakes cut at every byte, and garbage

class Handshake:
    """A client's side by hand: its two flights as bytes."""

    def __init__(self, version):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def flight(self):
        """What the client sends next; whether its handshake is over."""
        try:
            self.tls.do_handshake()
            return self.outgoing.read(), True
        except ssl.SSLWantReadError:
            return self.outgoing.read(), False

    def second_flight(self, connection):
        """Sends the first flight, gives the second."""
        connection.sendall(self.flight()[0])
        while True:
            self.incoming.write(connection.recv(65536))
            data, _ = self.flight()
            if data:
                return data


def pieces(port):
    """(title, how to send each piece): the connection is left open behind it."""
    for title, version in (("1.3", ssl.TLSVersion.TLSv1_3), ("1.2", ssl.TLSVersion.TLSv1_2)):
        hello = Handshake(version).flight()[0]
        yield "a ClientHello of TLS %s" % title, [
            (lambda connection, data=hello[:count]: connection.sendall(data)) for count in range(len(hello))]

        def send_second(connection, count, version=version):
            connection.sendall(Handshake.second_flight(Handshake(version), connection)[:count])

        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            length = len(Handshake(version).second_flight(connection))
        yield "the client's Finished of TLS %s" % title, [
            (lambda connection, count=count: send_second(connection, count)) for count in range(length)]
    chance = random.Random(4711)
    garbage = [chance.randbytes(chance.randrange(1, 2000)) for _ in range(200)]
    garbage += [b"\x16\x03\x01" + data for data in garbage[:100]]                # the beginning of a record
    garbage += [hello[:at] + bytes([hello[at] ^ 0xFF]) + hello[at + 1:] for at in range(0, len(hello), 3)]
    yield "garbage", [(lambda connection, data=data: connection.sendall(data)) for data in garbage]


def cut(settled):
    class Impatient(tls.Headfirst):
        extra = "tls_handshake_timeout 2s;"

    peers.descriptors_wanted(3000)
    with origins.Origin() as origin, Impatient(origin.port, limit=3000) as proxy:
        with Watch(proxy.port):
            time.sleep(0.5)                 # the pool has its connections to the origin
        held_before = settled(proxy.descriptors)
        for title, sends in pieces(proxy.port):
            with Watch(proxy.port) as watch:
                lasted, late, established = left_open(proxy.port, sends)
            # A flipped byte may leave the handshake whole; a client whose handshake is over has other timers.
            yield not late, "%s, %d pieces: all closed within %.1f s, the last after %.2f s%s%s" % (
                title, len(sends), HANDSHAKE_TIMEOUT + GRACE, lasted,
                ", %d answered a flight" % established if established else "", ", %d NOT" % late if late else "")
            yield watch.verdict()
        held_after = settled(proxy.descriptors)
        alive = proxy.is_alive()
    yield held_after <= held_before, "%d descriptors, %d before" % (held_after, held_before)
    yield alive, "the process lives"


def left_open(port, sends):
    """Opens a connection for each piece; (the longest one lived, how many lived too long, how many got an answer)."""
    opened, lived, answered = {}, [], 0
    waiting = iter(sends)
    while True:
        if (send := next(waiting, None)) is not None:
            connection = socket.create_connection(("127.0.0.1", port), 10)
            opened[connection] = time.monotonic()
            try:
                send(connection)
            except OSError:
                pass                        # closed already, which is told below
        elif not opened or time.monotonic() - max(opened.values()) > HANDSHAKE_TIMEOUT + GRACE:
            break
        for connection in readable(list(opened), 0 if send else 0.1):
            try:
                data = connection.recv(65536)
            except OSError:
                data = b""
            answered += data[:1] == b"\x16"
            if not data:
                lived.append(time.monotonic() - opened.pop(connection))
                connection.close()
    for connection in opened:
        connection.close()
    late = sum(seconds > HANDSHAKE_TIMEOUT + GRACE for seconds in lived)
    return max(lived, default=0), len(opened) + late, answered


def readable(connections, seconds):
    poll = select.poll()
    numbers = {connection.fileno(): connection for connection in connections}
    for number in numbers:
        poll.register(number, select.POLLIN)
    return [numbers[number] for number, _ in poll.poll(seconds * 1000)]
