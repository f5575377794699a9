"""Origins for loads: a fast one (nginx, one worker) that answers in several sizes and framings."""
import os, re, subprocess

import peers

SIZES = {"16k": 16 << 10, "64k": 64 << 10, "1m": 1 << 20, "200m": 200 << 20}


class Origin(peers.Peer):
    """nginx without a proxy's work: /small and /SIZE with Content-Length, /chunked and /close (64 KiB) without."""

    name = "origin"

    def __init__(self, sizes=("16k", "64k", "1m")):
        super().__init__(origin_port=0)
        os.mkdir(self.path("www"))
        for size in sizes:
            self.write_file(size, SIZES[size])
        for name in ("chunked", "close"):
            self.write_file(name, SIZES["64k"])

    def write_file(self, name, size):
        text = bytes(range(32, 127)).replace(b"<", b" ") + b"\n"        # nothing in it that SSI would take for its own
        block = (text * 1000)[:65536]
        with open(self.path("www/" + name), "wb") as file:
            while size > 0:
                size -= file.write(block[:size])

    def command(self):
        configuration = self.path("nginx.conf", """\
daemon off; master_process off; worker_processes 1;
pid %s; error_log %s;
events { worker_connections 4096; }
http {
    access_log off; sendfile on; tcp_nodelay on; tcp_nopush on; open_file_cache max=100; default_type text/plain;
    keepalive_requests 1000000000; keepalive_timeout 600s; client_max_body_size 0;
    client_body_temp_path %s; proxy_temp_path %s; fastcgi_temp_path %s; uwsgi_temp_path %s; scgi_temp_path %s;
    server {
        listen 127.0.0.1:%d backlog=4096;
        root %s;
        location = /small { return 200 "hello"; }
        location = /chunked { ssi on; ssi_types *; }
        location = /close { ssi on; ssi_types *; chunked_transfer_encoding off; }
    }
}
""" % ((self.path("pid"), self.path("error.log")) + tuple(self.path("temp%d" % i) for i in range(5))
            + (self.port, self.path("www"))))
        return [peers.find("nginx", "nginx-light"), "-p", self.folder, "-c", configuration]


def wrk(port, path, connections, seconds, script=None):
    """Runs wrk for so many seconds; gives (requests, bytes read, errors)."""
    command = [peers.find("wrk", "wrk"), "-t1", "-c%d" % connections, "-d%ds" % seconds, "--timeout", "10s"]
    command += ["-s", script] if script else []
    done = subprocess.run(command + ["http://127.0.0.1:%d%s" % (port, path)], capture_output=True, text=True,
                          timeout=seconds + 60)
    total = re.search(r"(\d+) requests in [\d.]+\w+, ([\d.]+)(\w+) read", done.stdout)
    if not total or int(total[1]) == 0:
        raise peers.CannotStart("wrk made no request:\n" + done.stdout + done.stderr)
    unit = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}[total[3]]
    errors = [line.strip() for line in done.stdout.splitlines() if "Non-2xx" in line or "Socket errors" in line]
    return int(total[1]), float(total[2]) * unit, "; ".join(errors)
