"""The proxy with little memory: what `scripts/soak memory` measures. Yields (passed, text), as all of soak.py.

Streams are open, then uploads come whose origin reads slowly, so that each would fill every buffer on its way; small
requests come all the time. The proxy is alone in a memory cgroup (version 1) of its own, which counts what the kernel
keeps for it, sockets among it; of TCP's buffers only what `memory.kmem.tcp` tells, which is 0 unless that has a limit.
Where there is no such group to be had, the peak of its RSS is compared with the same bound.
"""
import collections, os, re, threading, time

import peers, streamload

KIB, MIB = 1 << 10, 1 << 20
STREAMS, UPLOADS, UPLOAD_BYTES = 2000, 1000, 10_000_000
RATE = 250_000                              # bytes a second that the origin reads of each at the most
SECONDS_MAX = 150.0                         # for all uploads
SMALL_PAUSE = 0.2                           # seconds between small requests


class Group:
    """A memory cgroup below this process's own, removed when all is over."""

    def __init__(self, limit):
        self.path, self.limit = "%s/headfirst-soak-%d" % (own_group(), os.getpid()), limit

    def __enter__(self):
        os.mkdir(self.path)
        try:
            self.write("memory.limit_in_bytes", self.limit)
        except OSError:
            os.rmdir(self.path)
            raise
        return self

    def __exit__(self, *_):
        for _ in range(50):                 # a process that has ended may be in it for a moment
            try:
                return os.rmdir(self.path)
            except OSError:
                time.sleep(0.1)

    def write(self, name, value):
        with open(os.path.join(self.path, name), "w") as file:
            file.write(str(value))

    def read(self, name):
        with open(os.path.join(self.path, name)) as file:
            return file.read()

    def enter(self):
        self.write("cgroup.procs", os.getpid())

    def says(self):
        used, kernel, tcp = (int(self.read("memory.%smax_usage_in_bytes" % kind)) / MIB
                             for kind in ("", "kmem.", "kmem.tcp."))
        kills = re.search(r"^oom_kill (\d+)", self.read("memory.oom_control"), re.M)
        return "cgroup of %d MiB: at most %.1f MiB used, %.1f of them the kernel's (of TCP's buffers %.1f), " \
            "limit hit %d times, killed %s" % (
                self.limit // MIB, used, kernel, tcp, int(self.read("memory.failcnt")), kills[1] if kills else "?")


def own_group():
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if "memory" in controllers.split(","):
                return "/sys/fs/cgroup/memory" + path.rstrip("/")
    raise OSError("no memory cgroup of version 1")


class NoGroup:
    def __init__(self, limit, reason):
        self.limit, self.reason = limit, reason

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def enter(self):
        pass

    def says(self):
        return "NO cgroup (%s): nothing bounds it, its peak of RSS is compared with %d MiB" % (
            self.reason, self.limit // MIB)


def group_of(limit):
    try:
        with Group(limit):
            pass
        return Group(limit)
    except OSError as error:
        return NoGroup(limit, error)


class Narrow(streamload.Proxy):
    def __init__(self, group, *words, **named):
        super().__init__(*words, **named)
        self.group = group

    def set_limit(self):
        super().set_limit()
        self.group.enter()


class Watch:
    """RSS every 50 ms, and a small request on a new connection every 200 ms, until it is stopped."""

    def __init__(self, proxy):
        self.proxy, self.started = proxy, time.monotonic()
        self.peak = self.peak_at = self.slowest = 0
        self.statuses, self.over = collections.Counter(), threading.Event()
        self.threads = [threading.Thread(target=run) for run in (self.look, self.ask)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def look(self):
        while not self.over.wait(0.05) and self.proxy.is_alive():
            rss = self.proxy.rss_bytes()
            if rss > self.peak:
                self.peak, self.peak_at = rss, time.monotonic() - self.started

    def ask(self):
        while not self.over.wait(SMALL_PAUSE) and self.proxy.is_alive():
            started = time.monotonic()
            self.statuses[streamload.status_of(self.proxy.port)] += 1
            self.slowest = max(self.slowest, time.monotonic() - started)

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


def measures(settled, limit):
    """settled: soak.py's. limit: bytes."""
    peers.descriptors_wanted(2 * (STREAMS + UPLOADS) + 2000)
    with streamload.Origin() as origin, group_of(limit) as group, Narrow(
            group, origin.port, limit=2 * (STREAMS + UPLOADS) + 2000, upstream="keepalive 64 idle=1s;") as proxy:
        with streamload.requests(proxy.port, 16, 1000) as first:     # what the process needs once
            first.stop()
        time.sleep(2)
        before, held_before = settled(proxy.rss_bytes), settled(proxy.sockets)
        with streamload.streams(proxy.port, STREAMS, milliseconds=(1000, 3000)) as streams:
            with_streams = settled(proxy.rss_bytes)
            with Watch(proxy) as watch, streamload.Load("uploads", proxy.port, UPLOADS, UPLOAD_BYTES, RATE) as uploads:
                streamload.wait_for(lambda: not proxy.is_alive() or not uploads.tell()["open"], SECONDS_MAX, 0.5)
                lasted = time.monotonic() - watch.started
                uploaded = uploads.stop()
            time.sleep(3)                   # the streams have had an event each since
            streamed = streams.stop()
        alive, told = proxy.is_alive(), group.says()
        if alive:
            highest = proxy.status("VmHWM")
            time.sleep(2)
            after, held_after = settled(proxy.rss_bytes), settled(proxy.sockets)
            exchanges, status = proxy.total("headfirst_exchanges"), streamload.status_of(proxy.port)
        else:
            ended = "with status %d, %s" % (proxy.process.returncode, proxy.output()[-300:].strip() or "saying nothing")
    yield alive, "the process lives" if alive else "the process ended " + ended
    yield alive and highest <= limit, (
        "RSS %.1f MiB, %.1f with %d streams, at most %.1f%s while %d uploads of %.0f MB ran, %.1f s after they began "
        "(at most %.0f MiB); %s" % (
            before / MIB, with_streams / MIB, STREAMS, (highest if alive else watch.peak) / MIB,
            "" if alive else ", as seen every 50 ms,", UPLOADS, UPLOAD_BYTES / 1e6, watch.peak_at, limit / MIB, told))
    yield uploaded["ok"] + uploaded["refused"] == UPLOADS and not uploaded["open"], (
        "uploads: %d answered 200, %d 503, %d otherwise, %d cut, %d still open after %.0f s%s" % (
            uploaded["ok"], uploaded["refused"], uploaded["other"], uploaded["cut"] + uploaded["failed"]
            + uploaded["unannounced"], uploaded["open"], lasted, streamload.said(uploaded)))
    yield streamload.are_unharmed(streamed, STREAMS), (
        "streams: %d of %d open at the end, %d events without a gap, %d cut, %d wrong%s" % (
            streamed["open"], STREAMS, streamed["pieces"], streamed["cut"], streamed["wrong"],
            streamload.said(streamed)))
    yield watch.statuses["200"] > 0 and set(watch.statuses) <= {"200", "503"}, (
        "small requests meanwhile, each on a new connection: %s; the slowest took %.0f ms" % (
            ", ".join("%d x %s" % (count, status) for status, count in watch.statuses.most_common()) or "none",
            watch.slowest * 1e3))
    if not alive:
        return
    kept = before + (highest - before) // 4
    yield after <= kept, "RSS %.1f MiB when all was over (at most %.1f: a quarter of what it had taken)" % (
        after / MIB, kept / MIB)
    yield held_after <= held_before and not exchanges and status == "200", (
        "then %d sockets (%d before), %d exchanges, and a request is answered with %s" % (
            held_after, held_before, exchanges, status))
