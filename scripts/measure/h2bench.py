"""What HTTP/2 costs beside nginx and HAProxy: what `scripts/bench http2` measures. Each with one worker, over TLS.

h2load is the client; the origin speaks HTTP/1.1. As with TLS, clients and origin share one processor, the proxy has
the other. What is printed of each load: CPU of the proxy (utime + stime), a ratio for each round of the same moment,
and their median. Then how long a head takes over HTTP/2 and over HTTP/1.1 through the same proxy, and how many
instructions a request takes and in which library, as callgrind counts them.
"""
import contextlib, glob, os, re, statistics, subprocess, sys, tempfile, time

import cost, exchange, http2, latency, origins, peers, tunnels

NOISE = 0.03                                # two runs of one proxy differ by as much
WIDE = ("-w24", "-W24")                     # windows of 16 MiB
NARROW = ("-w16", "-W16")                   # those of the protocol, 64 KiB
# (title, path, words of h2load, figure, unit, most that it may be of the better peer's)
LOADS = (
    ("small answers, 8 connections with 16 streams", "/small", ("-c8", "-m16"), "microseconds", "CPU us/request", 1.0),
    ("small answers, 64 connections with 1 stream", "/small", ("-c64", "-m1"), "microseconds", "CPU us/request", 1.0),
    ("1 MiB answers, 4 connections with 4 streams, windows of 16 MiB", "/1m", ("-c4", "-m4", *WIDE),
     "gibibyte_seconds", "CPU s/GiB", 1.0 + NOISE),
    ("1 MiB answers, 4 connections with 4 streams, windows of 64 KiB", "/1m", ("-c4", "-m4", *NARROW),
     "gibibyte_seconds", "CPU s/GiB", 1.0 + NOISE),
)
DOWNLOADS_MIN = 1.0 - NOISE                 # of the better peer's throughput
SAMPLES = 300
HEAD_MORE_MILLISECONDS = 0.1                # than by HTTP/1.1, at the median
FEW, MANY = 200, 1200                       # requests of the two runs of a slope
LIBRARIES = (("nghttp2", "nghttp2"), ("libcrypto", "OpenSSL"), ("libssl", "OpenSSL"))


# CPU beside the peers

class Round:
    def __init__(self, proxy, path, words, seconds):
        before = proxy.cpu_seconds()
        requests, received, elapsed, self.trouble = h2load(proxy.port, path, words, seconds)
        cpu = max(proxy.cpu_seconds() - before, 1 / peers.TICKS)
        self.microseconds, self.gibibyte_seconds = cpu / requests * 1e6, cpu / (received / 2**30)
        self.rate, self.throughput = requests / elapsed, received / elapsed / 2**20


def h2load(port, path, words, seconds):
    """(requests, bytes of content, seconds, what went wrong)"""
    done = subprocess.run(
        [*tunnels.on_processor(0), peers.find("h2load", "nghttp2-client"), "-t1", *words, "-D%g" % seconds,
         "https://127.0.0.1:%d%s" % (port, path)], capture_output=True, text=True, timeout=seconds + 60)
    time_taken = re.search(r"finished in ([\d.]+)(m?s)", done.stdout)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    content = re.search(r"traffic: .*?(?:\((\d+)\) total).*\((\d+)\) data", done.stdout)
    if not time_taken or not counts or not content or int(counts[1]) == 0:
        raise peers.CannotStart("h2load made no request:\n" + done.stdout[-500:] + done.stderr[-500:])
    # h2load's first line tells the time of its warm-up, too; what it was told to take is what its rate is of.
    trouble = "" if counts[2] == counts[3] == "0" and statuses[3] == statuses[4] == "0" else \
        "%s failed, %s errored, %s 4xx, %s 5xx" % (counts[2], counts[3], statuses[3], statuses[4])
    if "Application protocol: h2\n" not in done.stdout:
        trouble = "not HTTP/2"
    return int(counts[1]), int(content[2]), seconds, trouble


def table(title, running, path, words, figure, unit, most, rounds, seconds):
    for _, proxy in running:
        Round(proxy, path, words, 1)                                          # warm-up
    results = tunnels.alternated(running, rounds, lambda proxy: Round(proxy, path, words, seconds))
    print("\n%s: %d rounds of %g s, one worker; ratios are medians of rounds" % (title, rounds, seconds))
    print("%-12s %14s %12s %10s   %-30s %s" % (
        "", unit, "requests/s", "MiB/s", "Headfirst / this: CPU (range)", "throughput (range)"))
    ours, compared, whole = results.get("headfirst", []), {}, True
    for name, _ in running:
        found, told = results[name], ["", ""]
        if ours and name != "headfirst":
            for at, each in enumerate((figure, "throughput")):
                ratios = [getattr(our, each) / getattr(their, each) for our, their in zip(ours, found)]
                compared.setdefault(each, {})[name] = statistics.median(ratios)
                told[at] = "%.2f (%.2f to %.2f)" % (statistics.median(ratios), min(ratios), max(ratios))
        print("%-12s %14.2f %12.0f %10.0f   %-30s %s" % (
            name, *(statistics.median(getattr(r, each) for r in found) for each in (figure, "rate", "throughput")),
            *told))
        for trouble in sorted({r.trouble for r in found if r.trouble}):
            whole = False
            print("%-12s   NOT WHOLE: %s" % (name, trouble))
    if not compared:
        return whole
    verdicts = [verdict("CPU", compared[figure], max, most, "most")]
    if figure == "gibibyte_seconds":
        verdicts.append(verdict("throughput", compared["throughput"], min, DOWNLOADS_MIN, "least"))
    sys.stdout.flush()
    return whole and all(verdicts)


def verdict(what, compared, hardest_of, target, bound):
    hardest = hardest_of(compared, key=compared.get)
    met = compared[hardest] <= target if bound == "most" else compared[hardest] >= target
    print("%s %s: %.2f x %s's (at %s %.2f)" % ("PASS" if met else "FAIL", what, compared[hardest], hardest, bound, target))
    return met


# How long a head takes

class HTTP1:
    """HTTP/1.1 over TLS on one connection."""

    def __init__(self, port):
        self.socket = http2.tls.Secure.connect(port)

    def ask(self):
        self.socket.sendall(latency.GET)

    def finish(self):
        """Reads the answer; whether its head was in what came first."""
        received = first = self.socket.recv(65536)
        while not received.endswith(latency.CONTENT):
            received += self.socket.recv(65536)
        return b"\r\n\r\n" in first

    def close(self):
        self.socket.close()


class HTTP2(http2.Client):
    def ask(self):
        self.asked = self.stream()
        self.send(http2.get(self.asked, "/"))

    def finish(self):
        first = frames = self.read(10)
        while not any(flags & http2.END_STREAM and stream == self.asked for kind, flags, stream, _ in frames
                      if kind in (http2.DATA, http2.HEADERS)):
            frames = self.read(10)
            if self.end:
                raise latency.NoAnswer(self.end[1])
        return any(kind == http2.HEADERS for kind, _, _, _ in first)


def head_samples(clients, origin):
    """{kind: seconds from the head's leaving the origin until it reached the client}; the content follows then."""
    samples, head = {kind: [] for kind in clients}, latency.ANSWERS["response, Content-Length"][0]
    stop = time.perf_counter() + latency.SECONDS
    for turn in range(SAMPLES + 1):
        if turn > 10 and time.perf_counter() > stop:
            break
        for kind, client in clients.items():
            client.ask()
            found = origin.next_head(10)
            if not found:
                raise latency.NoAnswer("no request reached the origin")
            left = time.perf_counter()
            found[0].sendall(head)
            at = latency.arrives(client.socket, latency.HELD)
            found[0].sendall(latency.CONTENT)
            at = at or latency.arrives(client.socket, 10)
            if not client.finish() and turn:
                raise latency.NoAnswer("something else came before the head")
            if turn:                        # what comes behind a handshake, too, comes with the first
                samples[kind].append(at - left)
    return samples


def heads(names):
    """How long heads take; whether Headfirst takes no longer by HTTP/2."""
    print("\nresponse heads in ms over TLS, median / 99th percentile of %d; the content follows when the head "
          "has come, or after %d ms" % (SAMPLES, latency.HELD * 1e3))
    print("%-12s %20s %20s" % ("", "HTTP/1.1", "HTTP/2"))
    met = True
    for name in names:
        with contextlib.closing(latency.Origin()) as origin, http2.PEERS[name](origin.port) as proxy, \
                contextlib.closing(HTTP1(proxy.port)) as one, contextlib.closing(HTTP2(proxy.port)) as two:
            two.greet()
            found = head_samples({"HTTP/1.1": one, "HTTP/2": two}, origin)
        print("%-12s %20s %20s" % (name, *map(latency.cell, found.values())))
        if name == "headfirst":
            first, second = (statistics.median(samples) * 1e3 for samples in found.values())
            met = second - first <= HEAD_MORE_MILLISECONDS
            print("%s head: %.3f ms more by HTTP/2 (at most %g)" % (
                "PASS" if met else "FAIL", second - first, HEAD_MORE_MILLISECONDS))
    return met


# What a request's instructions are spent in

def callgrind_run(requests, secure, at_a_time):
    """{thread: {library: instructions}} after so many requests."""
    origin = exchange.Origin(exchange.ANSWERS["plain"])
    proxy = http2.Headfirst(origin.port)
    proxy.wrapper = cost.callgrind(proxy.folder)
    block = http2.head("/items/4711?page=2", "GET", ("accept", "application/json"),
                       ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
                       ("accept-encoding", "gzip, deflate, br"), scheme="https" if secure else "http")
    try:
        proxy.start()
        client = http2.Client(proxy.port if secure else proxy.clear_port, secure)
        client.greet()
        done = 0
        while done < requests:
            client.send(b"".join(http2.headers(client.stream(), block) for _ in range(at_a_time)))
            done += at_a_time
            while client.over < done:
                client.read(30)
                if client.end:
                    raise exchange.BadAnswer(client.end[1])
        client.close()
        proxy.end_process()
        return libraries(proxy)
    finally:
        proxy.stop()
        origin.close()


def libraries(proxy):
    """Instructions by thread and library: callgrind's lines of cost, and the object they are in."""
    threads = {}
    for path in glob.glob(proxy.path("callgrind-*")):
        counts, name, skips = {}, "", False
        with open(path, errors="replace") as file:
            for line in file:
                if line.startswith("ob="):
                    name = os.path.basename(line[3:].strip())
                elif line.startswith("calls="):
                    skips = True                    # the next line is what the called one took in all
                elif line[0] in "0123456789+-*":
                    if not skips:
                        counts[name] = counts.get(name, 0) + int(line.split()[1])
                    skips = False
        threads[path.rpartition("-")[2]] = counts
    if not threads:
        raise peers.CannotStart("callgrind counted nothing:\n" + proxy.output())
    return threads


def slope(few, many, names):
    spent = dict.fromkeys(names, 0.0)
    for library, count in many.items():
        ours = library == os.path.basename(os.environ["HEADFIRST_BINARY"])
        where = names[0] if ours else next((name for part, name in LIBRARIES if part in library), names[-1])
        spent[where] += (count - few.get(library, 0)) / (MANY - FEW)
    return spent


def instructions():
    print("\ninstructions of the worker a request (five fields, a small answer), and where")
    names = ["headfirst", "nghttp2", "OpenSSL", "libc and others"]
    print("%-34s %8s  %s" % ("", "in all", " ".join("%16s" % name for name in names)))
    with tempfile.TemporaryDirectory(prefix="headfirst-cost-") as folder:
        usual = os.environ["HEADFIRST_BINARY"]
        os.environ["HEADFIRST_BINARY"] = cost.without_debug_information(usual, folder)
        try:
            for title, secure, at_a_time in (("in clear, one by one", False, 1), ("in clear, 20 at a time", False, 20),
                                             ("over TLS, one by one", True, 1), ("over TLS, 20 at a time", True, 20)):
                few, many = (callgrind_run(requests, secure, at_a_time) for requests in (FEW, MANY))
                spent = max((slope(few.get(thread, {}), many[thread], names) for thread in many),
                            key=lambda spent: sum(spent.values()))          # the worker is whom requests cost most
                print("%-34s %8.0f  %s" % (title, sum(spent.values()), " ".join("%16.0f" % spent[name] for name in names)),
                      flush=True)
        finally:
            os.environ["HEADFIRST_BINARY"] = usual


def tables(names, rounds, seconds):
    """Whether all targets are met."""
    passed = True
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(origins.Origin())
        running = [(name, stack.enter_context(http2.PEERS[name](origin.port, wrapper=tunnels.on_processor(-1))))
                   for name in names]
        for title, path, words, figure, unit, most in LOADS:
            passed &= table(title, running, path, words, figure, unit, most, rounds, seconds)
    passed &= heads(names)
    if "headfirst" in names:
        instructions()
    return passed
