"""The proxies that can be measured: Headfirst, nginx, HAProxy.

A peer writes its configuration into a folder, starts one process tree on a free port of 127.0.0.1, tells what
that tree uses, and ends it; it never touches a process that it did not start. `variant` is "default" (what one
gets without tuning) or "tuned" (as a user who reads the manual would set it for this purpose).
"""
import os, random, resource, shutil, signal, socket, subprocess, tempfile, time

TICKS = os.sysconf("SC_CLK_TCK")


class CannotStart(Exception):
    pass


def free_port():
    """A port below the ephemeral range, so that no outgoing connection takes it between now and its bind."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def descriptors_wanted(count):
    """Raises the limit of this process and its children; says so where it cannot."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard < count:
            raise CannotStart("%d descriptors are needed, the hard limit is %d" % (count, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


class Peer:
    name = label = ""

    def __init__(self, origin_port, variant="default", wrapper=(), access_log="off", limit=None):
        """wrapper: words put before the command (valgrind, strace). limit: RLIMIT_NOFILE of the process."""
        self.origin_port, self.variant, self.wrapper = origin_port, variant, list(wrapper)
        self.access_log, self.limit = access_log, limit
        self.folder = tempfile.mkdtemp(prefix="headfirst-measure-")
        self.process = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def path(self, name, text=None):
        path = os.path.join(self.folder, name)
        if text is not None:
            with open(path, "w") as file:
                file.write(text)
        return path

    def start(self):
        for _ in range(3):                      # another process may have taken the port in between
            self.port = free_port()
            with open(self.path("output"), "wb") as output:
                self.process = subprocess.Popen(
                    self.wrapper + self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    start_new_session=True, preexec_fn=self.set_limit if self.limit else None)
            if self.wait_until_it_listens():
                return
        raise CannotStart("%s did not start:\n%s" % (self.name, self.output()))

    def set_limit(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.limit, self.limit))

    def wait_until_it_listens(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            except OSError:
                time.sleep(0.02)
        self.end_process()
        return False

    def end_process(self):
        if self.process and self.process.poll() is None:
            os.kill(self.main_pid(), signal.SIGTERM)
            self.after_signal()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)      # its own session: only what we started
                self.process.wait()

    def main_pid(self):
        """The proxy's own process: strace, which passes no signal on, is its parent; valgrind is the process itself."""
        if self.wrapper[:1] == ["strace"]:
            return (self.pids() + [self.process.pid])[1]
        return self.process.pid

    def after_signal(self):
        pass

    def stop(self):
        self.end_process()
        shutil.rmtree(self.folder, ignore_errors=True)

    def output(self):
        with open(self.path("output"), errors="replace") as file:
            return file.read()[-4000:]

    def is_alive(self):
        return self.process.poll() is None

    # What it uses.

    def pids(self):
        """The process and all its descendants."""
        children = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    children.setdefault(int(stat_fields(entry)[1]), []).append(int(entry))
                except OSError:
                    pass
        found, pending = [], [self.process.pid]
        while pending:
            pid = pending.pop()
            found.append(pid)
            pending += children.get(pid, [])
        return found

    def cpu_seconds(self):
        ticks = 0
        for pid in self.pids():
            fields = stat_fields(pid)
            ticks += int(fields[11]) + int(fields[12])            # utime, stime
        return ticks / TICKS

    def rss_bytes(self):
        pages = 0
        for pid in self.pids():
            with open("/proc/%d/statm" % pid) as file:
                pages += int(file.read().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def descriptors(self):
        return sum(len(os.listdir("/proc/%d/fd" % pid)) for pid in self.pids())


def stat_fields(pid):
    """/proc/PID/stat behind the command's name: state, ppid, ..."""
    with open("/proc/%s/stat" % pid) as file:
        return file.read().rsplit(")", 1)[1].split()


class Headfirst(Peer):
    name = label = "headfirst"
    extra = ""

    def command(self):
        configuration = self.path("proxy.conf", """\
workers 1;
access_log %s;
error_log stderr level=warning;
%s
upstream origin { server 127.0.0.1:%d; }
listener web {
    bind 127.0.0.1:%d;
    route / { upstream origin; }
}
""" % (self.access_log_directive(), self.extra, self.origin_port, self.port))
        return [os.environ["HEADFIRST_BINARY"], "run", "--config", configuration]

    def access_log_directive(self):
        return "off" if self.access_log == "off" else "%s format=json" % self.path("access.log")


class Nginx(Peer):
    name = label = "nginx"

    def command(self):
        binary = find("nginx", "nginx-light")
        log = "off"
        if self.access_log == "json":
            log = "%s json" % self.path("access.log")
        tuning = ""
        if self.variant == "tuned":
            tuning = ("proxy_buffering off; proxy_request_buffering off; "
                      "proxy_buffer_size 64k; proxy_buffers 8 64k;")
        # One process, no master: what a tool that follows threads sees is then the worker.
        configuration = self.path("nginx.conf", """\
daemon off; master_process off; worker_processes 1;
pid %s; error_log %s;
events { worker_connections 16000; }
http {
    log_format json escape=json '{"time":"$time_iso8601","request":"$request","status":$status,'
        '"bytes":$body_bytes_sent,"client":"$remote_addr","agent":"$http_user_agent","seconds":$request_time,'
        '"upstream":"$upstream_addr","upstream_seconds":"$upstream_response_time"}';
    access_log %s;
    client_body_temp_path %s; proxy_temp_path %s;
    fastcgi_temp_path %s; uwsgi_temp_path %s; scgi_temp_path %s;
    client_max_body_size 0; keepalive_requests 1000000000; tcp_nodelay on;
    upstream origin {
        server 127.0.0.1:%d; keepalive 64; keepalive_requests 1000000000;
    }
    server {
        listen 127.0.0.1:%d backlog=4096;
        location / {
            proxy_pass http://origin; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            %s
        }
    }
}
""" % ((self.path("pid"), self.path("error.log"), log) + tuple(self.path("temp%d" % i) for i in range(5))
            + (self.origin_port, self.port, tuning)))
        return [binary, "-p", self.folder, "-c", configuration]

    def after_signal(self):
        # Under valgrind nginx notices a signal only when something else happens too.
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            pass


class HAProxy(Peer):
    name = label = "haproxy"

    def command(self):
        binary = find("haproxy", "haproxy")
        tuning = "option splice-auto" if self.variant == "tuned" else ""
        configuration = self.path("haproxy.cfg", """\
global
    nbthread 1
    maxconn 2000
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 600s
    option http-keep-alive
    http-reuse always
    option forwardfor
    %s
frontend web
    bind 127.0.0.1:%d backlog 4096
    default_backend origin
backend origin
    server origin 127.0.0.1:%d
""" % (tuning, self.port, self.origin_port))
        return [binary, "-db", "-f", configuration]


PEERS = {peer.name: peer for peer in (Headfirst, Nginx, HAProxy)}


def find(command, package):
    path = shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if not path:
        raise CannotStart("%s is not here; install the package %s, or give --install" % (command, package))
    return path
