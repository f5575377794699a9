"""Faults around the proxy: what `scripts/soak faults` measures. Yields (passed, text), as all of soak.py.

Each fault comes under the same load, requests at a steady rate on kept connections and streams beside them, and the
service has to go on as if nothing were. What the access log could not write is counted, so that records in the log and
records lost make all exchanges together.
"""
import contextlib, json, os, resource, signal, socket, subprocess, tempfile, time

import exchange, peers, soak, streamload

RATE, CONNECTIONS, STREAMS = 4000, 64, 50
SECONDS = 5.0
HIGH_LATENCY = 0.05                         # seconds, for the 99th percentile
SMALL_FILE_SYSTEM, MORE = "256k", 10        # more requests when it has room
DESCRIPTORS_LEFT, INTRUDERS = 20, 100
RECOVERED_WITHIN = 10.0


def measures(settled, rotations):
    """settled: soak.py's. rotations: how often the log is moved away."""
    yield from log_on_a_full_device(settled)
    yield from log_nobody_reads(settled)
    yield from error_log_on_a_full_device()
    yield from few_descriptors()
    yield from rotated(settled, rotations)
    if os.geteuid() != 0:
        raise soak.Skipped("a log on a file system that fills up: only root can mount one")
    yield from log_on_a_full_file_system(settled)


# The load, and what came of it

class Service:
    """Requests and streams through a proxy; `verdicts` when the load has been stopped."""

    def __init__(self, proxy, connections=CONNECTIONS):
        self.requests = streamload.requests(proxy.port, connections, RATE)
        self.streams = streamload.streams(proxy.port, STREAMS)

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.streams)
            stack.enter_context(self.requests)
            self.stack = stack.pop_all()
        self.started = time.monotonic()
        return self

    def stop(self):
        self.seconds = time.monotonic() - self.started
        self.answered, self.streamed = self.requests.stop(), self.streams.stop()

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def verdicts(self, fault, may_refuse=False):
        """may_refuse: whether some may be answered 503, within the rate that is asked for."""
        one, per_second = self.answered, self.answered["ok"] / self.seconds
        trouble = sum(one[name] for name in ("refused", "other", "cut", "wrong", "failed", "unannounced"))
        yield trouble <= may_refuse * one["refused"] and per_second > 0.95 * RATE and one["p99"] < HIGH_LATENCY, (
            "%s: %.0f requests/s answered 200 for %.1f s, of %d asked for (95 %%), %d otherwise; %.2f ms at the 99th "
            "percentile (less than %.0f), %.1f ms at most%s" % (
                fault, per_second, self.seconds, RATE, trouble, one["p99"] * 1e3, HIGH_LATENCY * 1e3, one["max"] * 1e3,
                streamload.said(one)))
        one = self.streamed
        yield streamload.are_unharmed(one, STREAMS), "%s: %d of %d streams unharmed, %d events%s" % (
            fault, one["open"], STREAMS, one["pieces"], streamload.said(one))


def counted(proxy, settled):
    """(exchanges that ended, records that were lost), when neither changes any more."""
    return settled(lambda: (proxy.total("headfirst_requests_total"), proxy.total("headfirst_access_log_lost_total")))


def lines_in(*paths):
    count = 0
    for path in paths:
        with open(path, "rb") as file:
            count += file.read().count(b"\n")
    return count


# The access log

def log_on_a_full_device(settled):
    with streamload.Origin() as origin, streamload.Proxy(origin.port, access_log="/dev/full format=json") as proxy:
        with Service(proxy) as service:
            time.sleep(SECONDS)
            service.stop()
        exchanges, lost = counted(proxy, settled)
    yield from service.verdicts("access_log /dev/full")
    yield exchanges == lost > 0, "access_log /dev/full: %d exchanges, %d records counted as lost (all of them)" % (
        exchanges, lost)


def log_nobody_reads(settled):
    fault = "access_log to a pipe that nobody reads"
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(streamload.Origin())
        proxy = streamload.Proxy(origin.port)
        os.mkfifo(proxy.path("pipe"))
        proxy.access_log = proxy.path("pipe") + " format=json"
        reader = os.open(proxy.path("pipe"), os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, reader)
        stack.enter_context(proxy)
        with Service(proxy) as service:
            time.sleep(SECONDS)
            service.stop()
        _, lost_meanwhile = counted(proxy, settled)
        read = settled(Reader(reader).lines)
        streamload.ask(proxy.port, "/small")                     # now that somebody reads, its record arrives
        read_later = settled(Reader(reader).lines)
        exchanges, lost = counted(proxy, settled)
    yield from service.verdicts(fault)
    yield lost_meanwhile > 0 and exchanges == read + read_later + lost, (
        "%s: %d exchanges, %d records lost and counted, %d read afterwards (together all)" % (
            fault, exchanges, lost, read + read_later))
    yield read_later == 1 and lost == lost_meanwhile, "%s: %d record of one more request, now that somebody reads" % (
        fault, read_later)


class Reader:
    def __init__(self, descriptor):
        self.descriptor, self.count = descriptor, 0

    def lines(self):
        """How many have come by now."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.descriptor, 1 << 20):
                self.count += data.count(b"\n")
        return self.count


def log_on_a_full_file_system(settled):
    fault = "access_log on a file system of " + SMALL_FILE_SYSTEM
    folder = tempfile.mkdtemp(prefix="headfirst-full-")
    try:
        size = "size=" + SMALL_FILE_SYSTEM
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "headfirst-soak", folder], check=True)
        try:
            yield from log_that_fills(settled, fault, os.path.join(folder, "access.log"))
        finally:
            subprocess.run(["umount", folder], check=True)
    finally:
        os.rmdir(folder)


def log_that_fills(settled, fault, log):
    with streamload.Origin() as origin, streamload.Proxy(origin.port, access_log=log + " format=json") as proxy:
        with Service(proxy) as service:
            time.sleep(SECONDS)
            service.stop()
        exchanges, lost = counted(proxy, settled)
        written, size = lines_in(log), os.path.getsize(log)
        subprocess.run(["mount", "-o", "remount,size=1m", os.path.dirname(log)], check=True)
        for _ in range(MORE):
            streamload.ask(proxy.port, "/small")
        again, lost_later = counted(proxy, settled)
        whole = records_in(log)
    yield from service.verdicts(fault)
    yield lost > 0 and exchanges == written + lost, (
        "%s: %d exchanges, %d records lost and counted, %d in the log (together all), which has %d bytes" % (
            fault, exchanges, lost, written, size))
    yield whole == written + MORE and again == exchanges + MORE and lost_later == lost, (
        "%s: %d whole records in it after %d requests more, now that there is room (%d: none on the line of a cut "
        "one)" % (fault, whole, MORE, written + MORE))


def records_in(*paths):
    """How many lines are whole records."""
    count = 0
    for path in paths:
        with open(path) as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    count += line.endswith("\n") and "status" in json.loads(line)
    return count


def rotated(settled, rotations):
    with streamload.Origin() as origin:
        proxy = streamload.Proxy(origin.port)
        logs = proxy.path("logs")
        os.mkdir(logs)
        log = os.path.join(logs, "access.log")
        proxy.access_log = log + " format=json"
        with proxy:
            with Service(proxy) as service:
                for turn in range(rotations):
                    os.rename(log, "%s.%d" % (log, turn))
                    os.kill(proxy.main_pid(), signal.SIGHUP)
                    done, _ = streamload.wait_for(lambda: os.path.exists(log), 10)
                    if not done:
                        raise peers.CannotStart("the log is not opened again, %d rotations were" % turn)
                    time.sleep(turn % 2 * 0.01)          # some come at once, others after some records
                service.stop()
            exchanges, lost = counted(proxy, settled)
            paths = [os.path.join(logs, name) for name in os.listdir(logs)]
            found, whole = lines_in(*paths), records_in(*paths)
    fault = "%d rotations" % rotations
    yield from service.verdicts(fault)
    yield found == whole == exchanges and not lost and exchanges >= service.answered["ok"], (
        "%s: %d exchanges, %d lines in %d files, %d of them whole records, %d lost" % (
            fault, exchanges, found, len(paths), whole, lost))


# The error log

def error_log_on_a_full_device():
    fault = "error_log /dev/full"
    dead = peers.free_port()
    with streamload.Origin() as origin, streamload.Proxy(
            origin.port, error_log="/dev/full level=debug", listener="route /dead { upstream dead; }",
            top="upstream dead { server 127.0.0.1:%d; }" % dead) as proxy:
        with Service(proxy) as service:
            statuses = set()
            while time.monotonic() - service.started < SECONDS:
                statuses.add(streamload.status_of(proxy.port, "/dead"))      # each has something to say there
                os.kill(proxy.main_pid(), signal.SIGHUP)
                time.sleep(0.02)
            service.stop()
        alive = proxy.is_alive()
    yield from service.verdicts(fault)
    yield alive and statuses == {"502"}, "%s: the process lives; %s for a server that is not there (502)" % (
        fault, ", ".join(sorted(statuses)))


# Descriptors

def few_descriptors():
    fault = "%d descriptors left" % DESCRIPTORS_LEFT
    with streamload.Origin() as origin, streamload.Proxy(origin.port) as proxy:
        with Service(proxy, connections=16) as service:
            time.sleep(1)
            limit = proxy.descriptors() + DESCRIPTORS_LEFT
            resource.prlimit(proxy.main_pid(), resource.RLIMIT_NOFILE, (limit, limit))
            intruders = []
            for _ in range(INTRUDERS):
                client = socket.create_connection(("127.0.0.1", proxy.port), 10)     # in the backlog at the least
                client.sendall(exchange.REQUEST)
                intruders.append(client)
            time.sleep(SECONDS)
            held = proxy.descriptors()
            statuses = [status for status in map(soak.status_of, intruders) if status]
            for client in intruders:
                client.close()
            started = time.monotonic()
            recovered = soak.first_answer(proxy.port, RECOVERED_WITHIN)
            took = time.monotonic() - started
            time.sleep(1)
            service.stop()
        counted_refused = proxy.metrics()['headfirst_failures_total{reason="out_of_resources"}']
    yield from service.verdicts(fault, may_refuse=True)
    yield held >= limit - 4, "%s: %d of %d in use with %d clients more: they had run out" % (
        fault, held, limit, INTRUDERS)
    refused = service.answered["refused"] + statuses.count(b"503")
    yield set(statuses) <= {b"200", b"503"} and len(statuses) < INTRUDERS and counted_refused >= refused, (
        "%s: %d of these clients answered 200, %d 503, others wait; %d counted as out_of_resources (at least %d)" % (
            fault, statuses.count(b"200"), statuses.count(b"503"), counted_refused, refused))
    yield recovered, "%s: accepting again %.2f s after they had gone (at most %.0f)" % (fault, took, RECOVERED_WITHIN)
