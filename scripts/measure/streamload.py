"""streamload.c's origin and clients, and a Headfirst to put between them that can be asked for its metrics."""
import json, os, re, select, signal, socket, subprocess, time

import peers, tunnels

PATIENCE = 60.0                             # seconds until a load has to have begun


class Program:
    """streamload in the background, a line from it at a time."""

    def __init__(self, *words):
        self.words = words
        self.process = subprocess.Popen([tunnels.load_program("streamload"), *map(str, words)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def line(self):
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        if line := self.process.stdout.readline() if ready else "":
            return line
        self.process.kill()
        raise peers.CannotStart("streamload %s: %s" % (
            " ".join(map(str, self.words)), self.process.communicate()[1].strip()[:300] or "says nothing"))

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


class Origin(Program):
    def __init__(self):
        super().__init__("origin")
        self.port = int(self.line())


class Load(Program):
    """Clients; inside `with` each has got its answer's head, or has failed."""

    def __enter__(self):
        try:
            self.begun = json.loads(self.line())
        except peers.CannotStart:
            self.__exit__()
            raise
        return self

    def tell(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.line())

    def stop(self):
        """What there was in all; every connection is closed then."""
        self.process.stdin.close()
        found = json.loads(self.line())
        self.process.wait()
        self.process.stdin = None
        return found


def streams(port, count, events=0, milliseconds=(100, 500)):
    return Load("streams", port, count, events, *milliseconds)


def requests(port, count, rate):
    """So many requests a second on `count` kept connections."""
    return Load("kept", port, count, "%.3f" % (count * 1e6 / rate))


class Wrk:
    """wrk at full speed on kept connections until it is stopped."""

    def __init__(self, port, path="/small", connections=64, seconds_max=900):
        self.process = subprocess.Popen(
            [peers.find("wrk", "wrk"), "-t1", "-c%d" % connections, "-d%ds" % seconds_max, "--timeout", "10s",
             "http://127.0.0.1:%d%s" % (port, path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        return self

    def stop(self):
        """(requests, errors)"""
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=30)
        total = re.search(r"(\d+) requests in", output)
        errors = [line.strip() for line in output.splitlines() if "Non-2xx" in line or "Socket errors" in line]
        return int(total[1]) if total else 0, "; ".join(errors)

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


class Proxy(peers.Headfirst):
    """Headfirst with an admin listener. Texts: more directives at the top, in the upstream and in the listener."""

    def __init__(self, origin_port, top="", upstream="", listener="", access_log="off",
                 error_log="stderr level=warning", drain_delay="0s", **named):
        super().__init__(origin_port, **named)
        self.top, self.upstream, self.listener = top, upstream, listener
        self.access_log, self.error_log, self.drain_delay = access_log, error_log, drain_delay

    def command(self):
        self.admin = peers.free_port()
        self.configure(self.configuration())
        return [os.environ["HEADFIRST_BINARY"], "run", "--config", self.path("proxy.conf")]

    def configuration(self):
        return """\
workers 1;
access_log %s;
error_log %s;
admin { bind 127.0.0.1:%d; }
drain_delay %s;
%s
upstream origin { server 127.0.0.1:%d; %s }
listener web {
    bind 127.0.0.1:%d backlog=4096;
    %s
    route / { upstream origin; }
}
""" % (self.access_log, self.error_log, self.admin, self.drain_delay, self.top, self.origin_port, self.upstream,
       self.port, self.listener)

    def configure(self, text):
        os.rename(self.path("proxy.conf.fresh", text), self.path("proxy.conf"))

    def metrics(self):
        """{series with its labels: value}"""
        _, _, text = ask(self.admin, "/metrics").partition(b"\r\n\r\n")
        lines = (line.rpartition(" ") for line in text.decode().splitlines() if line and line[0] != "#")
        return {series: float(value) for series, _, value in lines}

    def total(self, name, metrics=None):
        """A figure over all its labels."""
        return sum(value for series, value in (metrics or self.metrics()).items() if series.partition("{")[0] == name)

    def status(self, field):
        """A figure of /proc/PID/status that is in KiB, in bytes."""
        with open("/proc/%d/status" % self.main_pid()) as file:
            return int(re.search(r"^%s:\s+(\d+) kB" % field, file.read(), re.M)[1]) << 10

    def sockets(self):
        """How many of its descriptors are sockets: others are its own, and pipes that it keeps for the next bytes."""
        folder, count = "/proc/%d/fd/" % self.main_pid(), 0
        for name in os.listdir(folder):
            try:
                count += os.readlink(folder + name).startswith("socket:")
            except OSError:
                pass                        # closed meanwhile
        return count

    def exit_status(self, seconds):
        """That of the process when it ends within so many seconds, or None."""
        try:
            return self.process.wait(max(0, seconds))
        except subprocess.TimeoutExpired:
            return None

    def ticks(self):
        return sum(int(field) for field in peers.stat_fields(self.main_pid())[11:13])       # utime, stime


def ask(port, path, timeout=10):
    """The whole answer to one request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout) as client:
        # The admin listener answers to no other name.
        client.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode())
        answer = b""
        while data := client.recv(262144):
            answer += data
    return answer


def status_of(port, path="/small"):
    """The status of an answer, or why there is none."""
    try:
        answer = ask(port, path)
    except OSError as error:
        return error.strerror or str(error)
    return answer[9:12].decode() if answer else "closed"


def held(before, after, shares):
    """Quantiles of headfirst_hold_seconds between two readings, as histogram_quantile tells them; their count first."""
    counts = {}
    for series, value in after.items():
        if series.startswith("headfirst_hold_seconds_bucket"):
            bound = float(re.search(r'le="([^"]+)"', series)[1])
            counts[bound] = counts.get(bound, 0) + value - before.get(series, 0)
    total, found = counts[float("inf")], []
    for share in shares:
        lower = counted = 0.0
        for bound, count in sorted(counts.items()):
            if count >= share * total:
                inside = (share * total - counted) / (count - counted) if count > counted else 1
                found.append(lower + (bound - lower) * inside)
                break
            lower, counted = bound, count
    return [total, *found]


def wait_for(condition, seconds, pause=0.0005):
    """Whether it came true in time; how long that took."""
    started = time.monotonic()
    while not (is_true := condition()) and time.monotonic() - started < seconds:
        time.sleep(pause)
    return is_true, time.monotonic() - started


def said(found):
    """What went wrong first, behind a colon."""
    return ": " + found["trouble"] if found["trouble"] else ""


def are_unharmed(found, count):
    """Whether so many streams or tunnels are all open, and nothing of what they carried was lost."""
    harm = found["cut"] + found["wrong"] + found["failed"]
    return found["open"] == found["ok"] == count and not harm and found["pieces"] > 0
