"""Speed and latency beside nginx and HAProxy, each with one worker, alternating within one run.

    scripts/bench small|bodies|latency|tunnels|tls|http2|all [--rounds N] [--seconds S] [--of NAME,...] [--install]

small    CPU of the proxy a request: 64 keep-alive connections, 5-byte answers
bodies   CPU of the proxy a GiB: 16 KiB and 1 MiB answers
latency  how long a head is held: from leaving one side until the other side has it, content coming 400 ms later
tunnels  CPU of the proxy a GiB and throughput of WebSocket tunnels, each way and both, and a round trip in one;
         beside Caddy and Envoy, too (see tunnels.py)
tls      the same for clients of TLS: handshakes a CPU-second, full and resumed; CPU of small and large answers;
         how much longer a head is held than in clear (see tls.py); exit status 1 if a target is missed
http2    the same for clients of HTTP/2 over TLS: CPU of small answers and of downloads, throughput, head latency beside
         HTTP/1.1, and instructions a request by library (see h2bench.py); exit status 1 if a target is missed

CPU is utime + stime of the proxy's own processes, so that the client and the origin on the same machine do not
count; ratios are medians over rounds of the same moment, so that a busy machine moves both sides. wrk is the client,
nginx with one worker the origin. nginx and HAProxy are measured as they come and, where it matters here, tuned.
"""
import argparse, contextlib, statistics, sys

import h2bench, latency, origins, peers, tls, tunnels

SECONDS = 3                                 # one round of one proxy


def contenders(names, tuned):
    """(label, class, variant): Headfirst, then its peers as they come and, if it matters here, tuned."""
    chosen = []
    for name in names:
        chosen.append((name, peers.PEERS[name], "default"))
        if name in tuned:
            chosen.append((name + " tuned", peers.PEERS[name], "tuned"))
    return chosen


class Round:
    def __init__(self, cpu, requests, received, errors):
        self.microseconds = cpu / requests * 1e6
        self.gibibyte_seconds = cpu / (received / 2**30)
        self.rate, self.throughput, self.errors = requests / SECONDS, received / SECONDS / 2**20, errors


def measure(proxy, path, connections):
    before = proxy.cpu_seconds()
    requests, received, errors = origins.wrk(proxy.port, path, connections, SECONDS)
    return Round(proxy.cpu_seconds() - before, requests, received, errors)


def load(title, path, connections, figure, unit, names, tuned, rounds):
    """Prints one table: medians of each contender, and Headfirst's ratio to each, round by round."""
    chosen, results = contenders(names, tuned), {}
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(origins.Origin())
        running = []
        for label, peer, variant in chosen:
            proxy = stack.enter_context(peer(origin.port, variant=variant))
            origins.wrk(proxy.port, path, connections, 1)              # warm-up
            running.append((label, proxy))
        for turn in range(rounds):
            first = turn % len(running)
            for label, proxy in running[first:] + running[:first]:
                results.setdefault(label, []).append(measure(proxy, path, connections))
    print("\n%s: %d connections, %d rounds of %d s, one worker" % (title, connections, rounds, SECONDS))
    print("%-16s %14s %12s %12s   %s" % ("", unit, "requests/s", "MiB/s", "Headfirst / this (lowest to highest round)"))
    ours = [getattr(r, figure) for r in results.get("headfirst", [])]
    for label, _, _ in chosen:
        found = results[label]
        values = [getattr(r, figure) for r in found]
        ratio = ""
        if ours and label != "headfirst":
            ratios = [our / their for our, their in zip(ours, values)]
            ratio = "%.2f (%.2f to %.2f)" % (statistics.median(ratios), min(ratios), max(ratios))
        print("%-16s %14.2f %12.0f %12.0f   %s" % (
            label, statistics.median(values), statistics.median([r.rate for r in found]),
            statistics.median([r.throughput for r in found]), ratio))
        for errors in sorted({r.errors for r in found if r.errors}):
            print("%-16s   errors: %s" % ("", errors))
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("small", "bodies", "latency", "tunnels", "tls", "http2", "all"))
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each proxy (default 7)")
    parser.add_argument("--seconds", type=float, default=SECONDS,
                        help="of one round of tunnels, TLS or HTTP/2 (default %d)" % SECONDS)
    parser.add_argument("--of", help="proxies to measure, separated by commas (default: all that the mode knows)")
    parser.add_argument("--install", action="store_true", help="install what apt has of the peers if missing")
    arguments = parser.parse_args()
    met = True
    known = tunnels.PEERS if arguments.what == "tunnels" else peers.PEERS
    names = arguments.of.split(",") if arguments.of else list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error("unknown: %s; there are %s" % (", ".join(unknown), ", ".join(known)))
    if arguments.rounds < 1:
        parser.error("at least one round")
    try:
        if arguments.what in ("small", "all"):
            load("small answers", "/small", 64, "microseconds", "CPU us/request", names, (), arguments.rounds)
        if arguments.what in ("bodies", "all"):
            load("16 KiB answers", "/16k", 64, "microseconds", "CPU us/request", names, ("nginx",), arguments.rounds)
            load("1 MiB answers", "/1m", 16, "gibibyte_seconds", "CPU s/GiB", names, ("nginx", "haproxy"),
                 arguments.rounds)
        if arguments.what in ("latency", "all"):
            latency.table(contenders(names, ("nginx",)))
        if arguments.what in ("tunnels", "all"):
            tunnels.tables(names if arguments.of else list(tunnels.PEERS), arguments.rounds, arguments.seconds)
        if arguments.what in ("tls", "all"):
            met &= tls.tables(names, arguments.rounds, arguments.seconds)
        if arguments.what in ("http2", "all"):
            met &= h2bench.tables(names, arguments.rounds, arguments.seconds)
    except peers.CannotStart as error:
        print("error: %s" % error, file=sys.stderr)
        return 2
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
