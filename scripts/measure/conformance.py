"""Starts the proxy and the behaviour probe on free ports; exit status 1 if a case fails, 2 if it could not be run.

    scripts/conformance [--tls client|upstream|both] [--http2] [--only PREFIX,...]

"""
import argparse, os, subprocess, sys

import peers

FOLDER = os.path.dirname(__file__)
PROBE = os.path.join(FOLDER, "../../Tests/Conformance/probe.py")
TLS_PROBE = os.path.join(FOLDER, "tlsprobe.py")
HTTP2_PROBE = os.path.join(FOLDER, "http2probe.py")
# What the probe is told of the configuration below.
RESPONSE_HEAD_SECONDS = 3


class Proxy(peers.Headfirst):
    def __init__(self, origin_port, side, http2):
        super().__init__(origin_port)
        self.http2 = http2
        self.clients_speak_tls, self.upstream_speaks_tls = side in ("client", "both"), side in ("upstream", "both")
        self.certificate, self.key = self.path("certificate.pem"), self.path("key.pem")
        if side != "none":
            self.make_certificate()

    def make_certificate(self):
        """For both sides of the proxy, signed by itself: who trusts it, trusts nothing else."""
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,DNS:probe.test,IP:127.0.0.1",
             "-keyout", self.key, "-out", self.certificate],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if made.returncode:
            raise peers.CannotStart("no certificate: %s" % made.stdout.decode(errors="replace"))

    def command(self):
        configuration = self.path("proxy.conf", """\
access_log off;
response_head_timeout %ds;
upstream origin { server 127.0.0.1:%d; %s }
listener web {
    bind 127.0.0.1:%d%s
    http2 %s;
    route / { upstream origin; }
}
""" % (RESPONSE_HEAD_SECONDS, self.origin_port,
            "tls { ca_file %s; }" % self.certificate if self.upstream_speaks_tls else "", self.port,
            " tls; tls { certificate %s %s; }" % (self.certificate, self.key) if self.clients_speak_tls else ";",
            "on" if self.http2 else "tls"))
        return [os.environ["HEADFIRST_BINARY"], "run", "--config", configuration]


def main():
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tls", choices=("none", "client", "upstream", "both"), default="none",
                        help="whose connections speak TLS; by default nobody's")
    parser.add_argument("--http2", action="store_true",
                        help="its clients speak HTTP/2, in clear or over TLS; needs the package h2 from PyPI")
    parser.add_argument("--only", default="", help="prefixes of cases, separated by commas")
    arguments = parser.parse_args()
    origin_port = peers.free_port()
    try:
        with Proxy(origin_port, arguments.tls, arguments.http2) as proxy:
            probe = [PROBE]
            if arguments.http2:
                if proxy.upstream_speaks_tls:
                    parser.error("--http2 is for --tls none or client")
                probe = [HTTP2_PROBE] + (["--certificate", proxy.certificate] if proxy.clients_speak_tls else [])
            elif arguments.tls != "none":
                probe = [TLS_PROBE, arguments.tls, proxy.certificate, proxy.key]
            status = subprocess.call(
                [sys.executable] + probe +
                ["--proxy", "127.0.0.1:%d" % proxy.port, "--origin-port", str(origin_port),
                 "--pid", str(proxy.process.pid), "--timeout-s", str(RESPONSE_HEAD_SECONDS),
                 "--only", arguments.only])
            if not proxy.is_alive():
                print("the proxy ended, status %s" % proxy.process.returncode, file=sys.stderr)
                status = status or 1
            if status:
                print(proxy.output(), file=sys.stderr)
                print("conformance: FAILED", file=sys.stderr)
    except peers.CannotStart as error:
        print("error: %s" % error, file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
