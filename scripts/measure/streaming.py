"""Streams that idle, streams that see the process end, and how long heads are held: what `scripts/soak` measures as
sse, drain and holds. Each yields (passed, text), as all of soak.py; settled is soak.py's.
"""
import os, resource, signal, threading, time

import origins, peers, streamload

KIB, MIB = 1 << 10, 1 << 20


# Idle streams

def sse(settled, count):
    each_bound, limit = 4 * KIB, 2 * count + 2000               # the proxy has two for each, the ends one
    peers.descriptors_wanted(limit)
    rounds = []
    with streamload.Origin() as origin, streamload.Proxy(
            origin.port, upstream="keepalive 64 idle=1s;", limit=limit) as proxy:
        with streamload.streams(proxy.port, 100, milliseconds=(0, 0)) as first:      # what the process needs once
            first.stop()
        time.sleep(2)
        before, held_before = settled(proxy.rss_bytes), settled(proxy.sockets)
        for _ in range(2):
            with streamload.streams(proxy.port, count, milliseconds=(0, 0)) as load:
                open_rss, held = settled(proxy.rss_bytes), settled(proxy.sockets)
                ticks = proxy.ticks()
                time.sleep(5)
                ticks = proxy.ticks() - ticks
                found = load.stop()
            time.sleep(2)
            rounds.append((found, open_rss, held, ticks, settled(proxy.rss_bytes), settled(proxy.sockets)))
        alive = proxy.is_alive()
    (found, open_rss, held, ticks, after, held_after), (again, again_rss, _, again_ticks, last, held_last) = rounds
    yield all(one["pieces"] == count and streamload.are_unharmed(one, count) for one in (found, again)), (
        "%d and %d of %d streams open, each with its first event and then idle%s" % (
            found["open"], again["open"], count, streamload.said(found) or streamload.said(again)))
    yield held == held_before + 2 * count, (
        "%d sockets meanwhile, %d before: both sides of each (a process may have %d descriptors here)" % (
            held, held_before, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    yield ticks + again_ticks == 0, "%d and %d ticks of CPU in 5 s of rest (none)" % (ticks, again_ticks)
    yield (open_rss - before) / count <= each_bound, "%.0f bytes of RSS for each (at most %d)" % (
        (open_rss - before) / count, each_bound)
    kept = count * each_bound // 4
    yield max(after, last) - before <= kept, (
        "RSS %.2f MiB, %.2f MiB with all, %.2f MiB when they had ended, %.2f MiB after as many again (at most %.2f)" % (
            before / MIB, open_rss / MIB, after / MIB, last / MIB, (before + kept) / MIB))
    yield again_rss <= open_rss + MIB, "RSS %.2f MiB with as many again (at most %.2f)" % (
        again_rss / MIB, (open_rss + MIB) / MIB)
    yield alive and max(held_after, held_last) <= held_before, "%d and %d sockets when they had ended, %d before" % (
        held_after, held_last, held_before)


# The end of the process

class Ending:
    """SIGTERM, and what comes to new connections and to those who ask /readyz from then on: (seconds since, what)."""

    def __init__(self, proxy):
        self.proxy, self.served, self.ready, self.over = proxy, [], [], threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=words) for words in (
            (self.served, proxy.port, "/small", 0.02), (self.ready, proxy.admin, "/readyz", 0.005))]

    def __enter__(self):
        self.started = time.monotonic()
        os.kill(self.proxy.main_pid(), signal.SIGTERM)
        for thread in self.threads:
            thread.start()
        return self

    def seconds(self):
        return time.monotonic() - self.started

    def ask(self, found, port, path, pause):
        while not self.over.wait(pause):
            at = self.seconds()
            found.append((at, streamload.status_of(port, path)))

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


def drain(_):
    yield from drained_in_time()
    yield from drained_by_force()


def drained_in_time():
    count, events, kept, delay, grace, ready_within = 200, 40, 50, 2, 10, 0.1
    with streamload.Origin() as origin, \
            streamload.Proxy(origin.port, top="shutdown_grace %ds;" % grace, drain_delay="%ds" % delay) as proxy, \
            streamload.Load("kept", proxy.port, kept, 0) as idle, \
            streamload.streams(proxy.port, count, events, (100, 200)) as streams, Ending(proxy) as ending:
        time.sleep(delay - 0.2 - ending.seconds())
        idle_before = idle.tell()["open"]
        time.sleep(delay + 0.5 - ending.seconds())
        idle_after, running = idle.tell()["open"], count - streams.tell()["complete"]
        status = proxy.exit_status(delay + grace - ending.seconds())
        lasted = ending.seconds()
        found = streams.stop()
    failed_after = min((at for at, what in ending.ready if what == "503"), default=float("inf"))
    yield failed_after <= ready_within, "/readyz fails %.1f ms after SIGTERM (at most %.0f)" % (
        failed_after * 1e3, ready_within * 1e3)
    for name, what, wanted in (
            ("while drain_delay (%d s) runs" % delay, [what for at, what in ending.served if at < delay - 0.1], "200"),
            ("from 0.1 s after it", [what for at, what in ending.served if at > delay + 0.1], "Connection refused")):
        yield set(what) == {wanted}, "%d new connections %s: %s (%s)" % (
            len(what), name, ", ".join(sorted(set(what))), wanted)
    yield idle_before == kept and not idle_after, (
        "%d of %d idle connections are open 0.2 s before its end, %d half a second after" % (
            idle_before, kept, idle_after))
    yield found["complete"] == count and found["pieces"] == events * count and not found["cut"] + found["wrong"], (
        "%d of %d streams end complete, %d of them with the listener closed; %d cut, %d wrong%s" % (
            found["complete"], count, running, found["cut"], found["wrong"], streamload.said(found)))
    yield status == 0, "the process ends with status %s, %.1f s after SIGTERM (0, within %d)" % (
        status, lasted, delay + grace)


def drained_by_force():
    count, delay, grace, spread = 20, 1, 3, 0.5
    with streamload.Origin() as origin, \
            streamload.Proxy(origin.port, top="shutdown_grace %ds;" % grace, drain_delay="%ds" % delay) as proxy, \
            streamload.streams(proxy.port, count, 0, (100, 200)) as streams, Ending(proxy) as ending:
        time.sleep(delay + grace - spread - ending.seconds())
        running = streams.tell()["open"]
        status = proxy.exit_status(10)
        lasted = ending.seconds()
        found = streams.stop()
    yield running == found["cut"] == count and not found["complete"] + found["wrong"], (
        "%d of %d endless streams run %.1f s before shutdown_grace is over, then %d are cut, %d look complete" % (
            running, count, spread, found["cut"], found["complete"]))
    yield status == 0 and abs(lasted - delay - grace) < spread, (
        "the process ends with status %s, %.2f s after SIGTERM (0, after drain_delay, %d s, and shutdown_grace, %d)" % (
            status, lasted, delay, grace))


# How long heads are held

def holds(_):
    connections, seconds, median_bound, high_bound = 64, 10, 0.1, 5.0         # milliseconds
    with streamload.Origin() as origin, streamload.Proxy(origin.port) as proxy:
        origins.wrk(proxy.port, "/small", connections, 1)
        cpu = proxy.cpu_seconds()
        done, _, errors = origins.wrk(proxy.port, "/small", connections, 3)
        full, full_cpu = done / 3, (proxy.cpu_seconds() - cpu) / 3
        with streamload.requests(proxy.port, connections, full / 2) as load:
            time.sleep(1)
            before, started, cpu, asked = proxy.metrics(), time.monotonic(), proxy.cpu_seconds(), load.tell()
            time.sleep(seconds)
            after, lasted, half_cpu = proxy.metrics(), time.monotonic() - started, proxy.cpu_seconds() - cpu
            found = load.stop()
        heads, median, high = streamload.held(before, after, (0.5, 0.999))
    half = heads / lasted
    yield not errors and 0.45 <= half / full <= 0.55 and found["ok"] > asked["ok"], (
        "%.0f requests/s on %d connections, %.0f at full load: %.0f %% (45 to 55); the proxy used %.0f and %.0f %% of "
        "a processor%s" % (half, connections, full, 100 * half / full, 100 * half_cpu / lasted, 100 * full_cpu,
                         "; " + errors if errors else ""))
    yield median * 1e3 < median_bound, "%.3f ms at the median of %d heads (less than %.1f)" % (
        median * 1e3, heads, median_bound)
    yield high * 1e3 < high_bound, "%.3f ms at the 99.9th percentile (less than %.0f)" % (high * 1e3, high_bound)
