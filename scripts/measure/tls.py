"""What TLS costs beside nginx and HAProxy: each with one worker, alternating within one run, the same certificates.

tlsload.c is the client, compiled on first use; it fixes the cipher suite (AES-128-GCM) and the group (X25519), so that
no proxy has an easier choice, and counts a handshake only when it was what was asked for. Clients and origin share one
processor, the proxy has the other, as with tunnels. The proxies are set as their manuals show for TLS; session tickets
are what all three resume by.
"""
import contextlib, json, os, ssl, statistics, subprocess, sys

import latency, origins, peers, tunnels

# Two runs of the same proxy differ by as much: what is nearer than this is equal.
NOISE = 0.03
# (title, version, certificate, full or resumed, target as a ratio of the best peer's)
HANDSHAKES = (
    ("full handshakes, TLS 1.3, P-256", "1.3", "p256", "full", 0.95),
    ("full handshakes, TLS 1.3, RSA-2048", "1.3", "rsa", "full", 0.95),
    ("resumed handshakes, TLS 1.3, P-256", "1.3", "p256", "resumed", 1.0 - NOISE),
    ("resumed handshakes, TLS 1.2, P-256", "1.2", "p256", "resumed", 1.0 - NOISE),
    ("resumed handshakes, TLS 1.3, RSA-2048", "1.3", "rsa", "resumed", 1.0 - NOISE),
    ("resumed handshakes, TLS 1.2, RSA-2048", "1.2", "rsa", "resumed", 1.0 - NOISE),
)
# (title, path, connections, figure, unit, target)
REQUESTS = (
    ("small answers", "/small", 64, "microseconds", "CPU us/request", 1.0),
    ("1 MiB answers", "/1m", 16, "gibibyte_seconds", "CPU s/GiB", 1.0),
)
HANDSHAKE_CONNECTIONS = 32
LATENCY_MORE_MILLISECONDS = 1.0             # than in clear, at the median


# The tools.

def load_program():
    return tunnels.load_program("tlsload", ("-D_GNU_SOURCE", "-lssl", "-lcrypto"))


def make_certificate(folder, name, kind, host="localhost"):
    """A self-signed certificate in folder/name.pem, its key in name.key, and both for HAProxy in name.both."""
    algorithm = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "p256" else ["rsa:2048"]
    certificate, key, both = (os.path.join(folder, name + end) for end in (".pem", ".key", ".both"))
    done = subprocess.run(
        [peers.find("openssl", "openssl"), "req", "-x509", "-newkey", *algorithm, "-nodes", "-days", "30", "-sha256",
         "-subj", "/CN=" + host, "-addext", "subjectAltName=DNS:" + host, "-keyout", key, "-out", certificate],
        capture_output=True, text=True)
    if done.returncode != 0:
        raise peers.CannotStart("openssl makes no certificate:\n" + done.stderr)
    with open(both, "w") as file:
        for path in (certificate, key):
            with open(path) as part:
                file.write(part.read())


def client(*words, timeout=120):
    """Runs tlsload; gives what it prints."""
    done = subprocess.run([*tunnels.on_processor(0), load_program(), *map(str, words)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise peers.CannotStart("tlsload failed: " + done.stderr.strip()[:300])
    return json.loads(done.stdout)


# The proxies.

class Secure:
    """A proxy that listens with TLS; `kind` names the certificate: p256 or rsa."""

    kind = "p256"

    def __init__(self, *words, kind="p256", **named):
        super().__init__(*words, **named)
        self.kind = kind
        make_certificate(self.folder, "site", kind)

    @staticmethod
    def connect(port):
        """A client's connection, its handshake over."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(latency.plain_connection(port), server_hostname="localhost")


class Headfirst(Secure, peers.Headfirst):
    bind_extra = listener_extra = ""
    workers = 1

    def command(self):
        configuration = self.path("proxy.conf", """\
workers %d;
access_log off;
error_log stderr level=warning;
%s
upstream origin { server 127.0.0.1:%d; }
listener web {
    bind 127.0.0.1:%d tls;
    tls { certificate %s %s; }
    %s
    route / { upstream origin; }
}
""" % (self.workers, self.extra, self.origin_port, self.port, self.path("site.pem"), self.path("site.key"),
            self.listener_extra))
        return [os.environ["HEADFIRST_BINARY"], "run", "--config", configuration]


def replace(path, old, new):
    """Puts one text in the place of another, which has to be there, in a file."""
    with open(path) as file:
        text = file.read()
    assert old in text
    with open(path, "w") as file:
        file.write(text.replace(old, new))


class Nginx(Secure, peers.Nginx):
    def command(self):
        command = super().command()
        replace(self.path("nginx.conf"), "listen 127.0.0.1:%d backlog=4096;" % self.port,
                """listen 127.0.0.1:%d ssl backlog=4096;
        ssl_certificate %s; ssl_certificate_key %s; ssl_protocols TLSv1.2 TLSv1.3;
        keepalive_timeout 600s;""" % (self.port, self.path("site.pem"), self.path("site.key")))
        return command


class HAProxy(Secure, peers.HAProxy):
    def command(self):
        command = super().command()
        bind = "bind 127.0.0.1:%d" % self.port
        replace(self.path("haproxy.cfg"), bind, "%s ssl crt %s" % (bind, self.path("site.both")))
        return command


PEERS = {peer.name: peer for peer in (Headfirst, Nginx, HAProxy)}


# The tables.

class Round:
    """One load: its rate a CPU-second, or its CPU a request and a GiB, and what went wrong."""

    def __init__(self, proxy, words, resumed=False):
        before = proxy.cpu_seconds()
        found = client(words[0], proxy.port, *words[1:])
        cpu = max(proxy.cpu_seconds() - before, 1 / peers.TICKS)
        self.negotiated, self.trouble = found["negotiated"], ""
        if found["failures"]:
            self.trouble = "%d failures: %s" % (found["failures"], found["first_failure"])
        first = HANDSHAKE_CONNECTIONS if resumed else found["handshakes"]     # each place begins with a full one
        if words[0] == "handshakes" and found["reused"] < found["handshakes"] - first or (
                not resumed and found["reused"]):
            self.trouble = "%d of %d handshakes were resumed" % (found["reused"], found["handshakes"])
        if not found["handshakes"]:
            raise peers.CannotStart("%s: no handshake: %s" % (proxy.name, self.trouble))
        self.handshakes = found["handshakes"] / cpu
        self.rate = (found["requests"] or found["handshakes"]) / found["seconds"]
        self.microseconds = cpu / max(found["requests"], 1) * 1e6
        self.gibibyte_seconds = cpu / max(found["bytes"], 1) * 2**30


def tables(names, rounds, seconds):
    for name in names:
        if name not in PEERS:
            raise peers.CannotStart("%s is not measured with TLS" % name)
    passed = True
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(origins.Origin())
        running = {kind: [(name, stack.enter_context(PEERS[name](
            origin.port, kind=kind, wrapper=tunnels.on_processor(-1)))) for name in names] for kind in ("p256", "rsa")}
        for title, version, kind, how, target in HANDSHAKES:
            words = ("handshakes", HANDSHAKE_CONNECTIONS, seconds, version, how)
            passed &= table(title, running[kind], words, "handshakes", "a CPU-second", target, rounds, True)
        for title, path, connections, figure, unit, target in REQUESTS:
            words = ("requests", connections, seconds, "1.3", path)
            passed &= table("%s by TLS 1.3, %d connections" % (title, connections), running["p256"], words, figure,
                            unit, target, rounds, False)
    passed &= head_latency(names)
    return passed


def table(title, running, words, figure, unit, target, rounds, more_is_better):
    """Medians of each, and Headfirst's ratio to each, round by round; whether the target was met."""
    resumed = words[-1] == "resumed"
    for _, proxy in running:                                                  # warm-up
        client(words[0], proxy.port, words[1], 0.5, *words[3:])
    results = tunnels.alternated(running, rounds, lambda proxy: Round(proxy, words, resumed))
    print("\n%s: %d rounds of %g s, one worker; ratios are medians of rounds" % (title, rounds, words[2]))
    print("%-12s %14s %10s   %-32s %s" % ("", unit, "rate/s", "negotiated", "Headfirst / this (lowest to highest)"))
    spoken, whole, ours = set(), True, results.get("headfirst", [])
    compared = {}
    for name, _ in running:
        found = results[name]
        spoken |= {r.negotiated for r in found}
        ratio = ""
        if ours and name != "headfirst":
            ratios = [getattr(our, figure) / getattr(their, figure) for our, their in zip(ours, found)]
            compared[name] = statistics.median(ratios)
            ratio = "%.2f (%.2f to %.2f)" % (compared[name], min(ratios), max(ratios))
        print("%-12s %14.3f %10.0f   %-32s %s" % (
            name, statistics.median(getattr(r, figure) for r in found), statistics.median(r.rate for r in found),
            found[0].negotiated, ratio))
        for trouble in sorted({r.trouble for r in found if r.trouble}):
            whole = False
            print("%-12s   NOT WHOLE: %s" % (name, trouble))
    if len(spoken) > 1:
        whole = False
        print("%-12s   NOT ALIKE: %s" % ("", "; ".join(sorted(spoken))))
    if not compared:
        return whole
    hardest = (min if more_is_better else max)(compared, key=compared.get)
    met = compared[hardest] >= target if more_is_better else compared[hardest] <= target
    print("%-12s   %s: %.2f x %s's (target: at %s %.2f)" % (
        "", "PASS" if met and whole else "FAIL", compared[hardest], hardest, "least" if more_is_better else "most",
        target))
    sys.stdout.flush()
    return met and whole


def head_latency(names):
    """How long a head is held, in clear and by TLS; whether Headfirst takes little longer for it."""
    chosen = [(name + end, group[name], "default") for name in names
              for end, group in (("", peers.PEERS), (" TLS", PEERS))]
    medians, passed = latency.table(chosen), True
    if "headfirst" not in names:
        return passed
    for clear, secure, row in zip(medians["headfirst"], medians["headfirst TLS"],
                                  [*latency.ANSWERS, *latency.REQUESTS]):
        more = (secure - clear) * 1e3
        met = more <= LATENCY_MORE_MILLISECONDS
        passed &= met
        print("%s %-26s %.3f ms more than in clear (at most %g)" % (
            "PASS" if met else "FAIL", row, more, LATENCY_MORE_MILLISECONDS))
    passed &= len(medians["headfirst TLS"]) == len(latency.ANSWERS) + len(latency.REQUESTS)
    return passed
