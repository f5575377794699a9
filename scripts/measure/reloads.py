"""Reloads under load: what `scripts/soak reloads` measures. Yields (passed, text), as all of soak.py.

Five configurations take turns, each of which differs from the one before in what can be reloaded: routes and hosts,
edits of fields, upstreams and their servers, a second listener, limits and timers, the access log, the admin block.
The listener that the load uses is in all of them. Each turn has a number in a field of its responses, so that a new
request tells which configuration it met.
"""
import contextlib, os, re, signal, statistics, time

import peers, streamload

MIB = 1 << 20
STREAMS, TUNNELS, KEPT = 200, 50, 20
TURN_SECONDS_MAX = 10.0
WARM_UP = 20                                # reloads before the baseline is taken

# What of a configuration takes turns: %(origin)d and %(second)d are origins' ports, %(extra)d and %(admin)d free ones.
SHAPES = (
    {"upstreams": "upstream origin { server 127.0.0.1:%(origin)d; keepalive 128 idle=2s; }", "route": "origin"},
    {"upstreams": "upstream origin { server 127.0.0.1:%(origin)d; keepalive 128 idle=2s; }", "route": "origin",
     "listener": """
    trusted_proxies 10.0.0.0/8;
    set_request_field X-Client "$client_address:$client_port";
    remove_response_field Cache-Control;
    host other.example *.other.example { error_format json; route / { respond 200 "other\\n"; } }
    route /events { upstream origin; response_idle_timeout 10m; add_response_field X-Accel-Buffering no; }
    route = /health { respond 200 "up\\n"; }"""},
    {"upstreams": """
upstream origin { server 127.0.0.1:%(origin)d; server 127.0.0.1:%(second)d weight=2; keepalive 64 idle=1s; }
upstream both {
    server 127.0.0.1:%(second)d; server 127.0.0.1:%(origin)d max_exchanges=5000; balance least_outstanding;
}""",
     "route": "both", "listener": "route /echo { upstream origin; }"},
    {"top": """
relay_buffer 32k; max_connections 5000; request_head_max 16k; fields_max 64; keepalive_timeout 120s;
request_idle_timeout 50s;
listener extra { bind 127.0.0.1:%(extra)d; route / { upstream origin; } }""",
     "upstreams": "upstream origin { server 127.0.0.1:%(second)d; retries 0; keepalive 32 idle=2s; }",
     "route": "origin"},
    {"top": "via off; error_format json; send_idle_timeout 50s;", "access_log": "/dev/null format=json",
     "admin": "bind 127.0.0.1:%(admin)d;", "listener": "interim http2; upgrade websocket;",
     "upstreams": """
upstream third { server 127.0.0.1:%(origin)d max_exchanges=5000; keepalive 16 idle=2s; connect_timeout 2s; }""",
     "route": "third"},
)
EXTRA = 3                                   # the shape with the second listener


class Reloaded(streamload.Proxy):
    def __init__(self, origin, second):
        super().__init__(origin.port)
        self.places = {"origin": origin.port, "second": second.port,
                       "extra": peers.free_port(), "admin": peers.free_port()}
        self.turn, self.log_read = 0, 0

    def configuration(self):
        shape = {name: SHAPES[self.turn % len(SHAPES)].get(name, "") % self.places
                 for name in ("top", "upstreams", "listener", "admin")}
        route, access_log = (SHAPES[self.turn % len(SHAPES)].get(name) for name in ("route", "access_log"))
        return """\
workers 2;
access_log %s;
error_log %s level=info;
admin { bind 127.0.0.1:%d; %s }
drain_delay 0s;
%s
%s
listener web {
    bind 127.0.0.1:%d backlog=4096;
    set_response_field X-Turn "%d";
    %s
    route / { upstream %s; }
}
""" % (access_log or "off", self.path("error.log"), self.admin, shape["admin"], shape["top"], shape["upstreams"],
            self.port, self.turn, shape["listener"], route)

    def reload(self):
        """Takes the next turn; gives the seconds from SIGHUP to the log's line, or what is wrong."""
        self.turn += 1
        self.configure(self.configuration())
        os.kill(self.main_pid(), signal.SIGHUP)
        done, seconds = streamload.wait_for(lambda: self.logged("taken on generation=%d" % (self.turn + 1)),
                                            TURN_SECONDS_MAX)
        if not done:
            return "turn %d is not taken on: %s" % (self.turn, self.log_end())
        if not re.search(rb"^X-Turn: %d\r$" % self.turn, streamload.ask(self.port, "/small"), re.M):
            return "turn %d is taken on, and not met" % self.turn
        extra, place = streamload.status_of(self.places["extra"]), self.turn % len(SHAPES)
        if (extra == "200") != (place == EXTRA):
            return "turn %d: the second listener says %s" % (self.turn, extra)
        return seconds

    def logged(self, text):
        with open(self.path("error.log")) as log:
            log.seek(self.log_read)
            lines = log.read()
        if text + "\n" not in lines:
            return False
        self.log_read += len(lines)
        return True

    def log_end(self):
        with open(self.path("error.log")) as log:
            return log.read()[-300:].strip().replace("\n", " | ")


def under_load(proxy, work):
    """What came of all clients while `work` was done."""
    with contextlib.ExitStack() as stack:
        loads = {name: stack.enter_context(load) for name, load in (
            ("streams", streamload.streams(proxy.port, STREAMS)),
            ("tunnels", streamload.Load("tunnels", proxy.port, TUNNELS, 50_000)),
            ("kept", streamload.requests(proxy.port, KEPT, 1000)))}
        wrk = stack.enter_context(streamload.Wrk(proxy.port))
        work()
        time.sleep(1)                       # whoever waits in vain has noticed
        found = {name: load.stop() for name, load in loads.items()}
        found["wrk"] = wrk.stop()
    return found


def at_rest(proxy, settled):
    """(RSS, descriptors) when idle connections to the origins are gone, too."""
    time.sleep(4)
    return settled(proxy.rss_bytes), settled(proxy.descriptors)


def measures(settled, count):
    """settled: soak.py's. count: how many reloads, a multiple of the configurations' number."""
    bound = 4 * MIB
    count += -count % len(SHAPES)
    took, wrong = [], []

    def reload(times):
        for _ in range(times):
            result = proxy.reload()
            (wrong if isinstance(result, str) else took).append(result)
            if len(wrong) == 3:
                return

    with streamload.Origin() as origin, streamload.Origin() as second, Reloaded(origin, second) as proxy:
        under_load(proxy, lambda: (time.sleep(3), reload(WARM_UP)))
        before, held_before = at_rest(proxy, settled)
        took.clear()
        metrics = proxy.metrics()
        started = time.monotonic()
        found = under_load(proxy, lambda: reload(count))
        lasted = time.monotonic() - started
        heads, *holds = streamload.held(metrics, proxy.metrics(), (0.5, 0.999))
        after, held_after = at_rest(proxy, settled)
        alive = proxy.is_alive()
    yield not wrong and len(took) == count, (
        "%d of %d reloads taken on, each by a new request and the second listener, in %.0f s: from SIGHUP to the log's "
        "line %.1f ms at the median, %.1f ms at most%s" % (
            len(took), count, lasted, statistics.median(took) * 1e3 if took else 0, max(took, default=0) * 1e3,
            "; ".join([""] + wrong)))
    done, errors = found["wrk"]
    yield done > 0 and not errors, "wrk: %d requests at full speed on 64 kept connections, %s" % (
        done, errors or "none failed")
    for name, count_open, what in (
            ("streams", STREAMS, "numbered events without a gap"), ("tunnels", TUNNELS, "echoes as sent")):
        one = found[name]
        yield streamload.are_unharmed(one, count_open), "%d %s, %d %s: %d open at the end, %d cut, %d wrong%s" % (
            count_open, name, one["pieces"], what, one["open"], one["cut"], one["wrong"], streamload.said(one))
    one = found["kept"]
    yield one["unannounced"] + one["cut"] + one["failed"] + one["refused"] + one["other"] == 0 < one["ok"], (
        "%d kept connections, %d requests: %d closed unannounced, %d announced, %d failed requests%s" % (
            KEPT, one["ok"], one["unannounced"], one["connects"] - KEPT - one["unannounced"],
            one["cut"] + one["failed"] + one["refused"] + one["other"], streamload.said(one)))
    yield after - before <= bound, (
        "RSS at rest %.2f MiB after a first run of the same load with %d reloads, %.2f MiB after the run with %d "
        "(at most %d MiB more)" % (before / MIB, WARM_UP, after / MIB, count, bound / MIB))
    yield held_after <= held_before, "%d descriptors at rest, %d before" % (held_after, held_before)
    yield alive, "the process lives; it held %d heads for %.3f ms at the median, %.3f ms at the 99.9th percentile" % (
        heads, holds[0] * 1e3, holds[1] * 1e3)
