"""What `scripts/soak` starts: soak.py's measures, and those of what an operator does to the proxy and what befalls it.

soak.py's help tells what each of them is.
"""
import argparse, functools, sys

import faults, h2floods, h2servers, h2soak, narrow, peers, reloads, soak, streaming


def of_headfirst(measure):
    """A measure as soak.py wants it, of Headfirst alone: no other proxy is asked for all that."""
    def run(peer):
        if peer is not peers.Headfirst:
            raise soak.Skipped("only Headfirst is measured")
        yield from measure(soak.settled)
    return run


def main():
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--rotations", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--streams", type=int, default=9000)
    parser.add_argument("--flood-seconds", type=float, default=5)
    options, sys.argv[1:] = parser.parse_known_args()
    measures = {
        "reloads": functools.partial(reloads.measures, count=options.reloads),
        "drain": streaming.drain,
        "sse": functools.partial(streaming.sse, count=options.streams),
        "faults": functools.partial(faults.measures, rotations=options.rotations),
        "memory": functools.partial(narrow.measures, limit=options.limit << 20),
        "holds": streaming.holds,
        "http2": h2soak.measures,
        "servers": h2servers.measures,
        "floods": functools.partial(h2floods.all_measures, seconds=options.flood_seconds),
    }
    soak.MEASURES.update((name, of_headfirst(measure)) for name, measure in measures.items())
    return soak.main()


if __name__ == "__main__":
    sys.exit(main())
