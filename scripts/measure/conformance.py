"""Starts the proxy and the behaviour probe on free ports; exit status 1 if a case fails, 2 if it could not be run.

    scripts/conformance [--only PREFIX,...]

"""
import argparse, os, subprocess, sys

import peers

PROBE = os.path.join(os.path.dirname(__file__), "../../Tests/Conformance/probe.py")
# What the probe is told of the configuration below.
RESPONSE_HEAD_SECONDS = 3


class Proxy(peers.Headfirst):
    def command(self):
        configuration = self.path("proxy.conf", """\
access_log off;
response_head_timeout %ds;
upstream origin { server 127.0.0.1:%d; }
listener web {
    bind 127.0.0.1:%d;
    route / { upstream origin; }
}
""" % (RESPONSE_HEAD_SECONDS, self.origin_port, self.port))
        return [os.environ["HEADFIRST_BINARY"], "run", "--config", configuration]


def main():
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="prefixes of cases, separated by commas")
    arguments = parser.parse_args()
    origin_port = peers.free_port()
    try:
        with Proxy(origin_port) as proxy:
            status = subprocess.call(
                [sys.executable, PROBE, "--proxy", "127.0.0.1:%d" % proxy.port, "--origin-port", str(origin_port),
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
