"""The cost gate: what one request costs the worker thread, in figures that noise does not move.

    scripts/cost                    measure, compare with scripts/cost.figures, exit status 1 if something got dearer
    scripts/cost --record           measure and write scripts/cost.figures
    scripts/cost --of nginx         measure another proxy, compare with nothing

Instructions are counted by callgrind, system calls by strace, both as a slope: two runs that differ only in the
number of requests, so that starting and stopping cancel out. One client, one connection, one request after the
other; the request has four fields, the answer five. Only user-space instructions of the worker thread count.
"""
import argparse, collections, glob, os, re, subprocess, sys, tempfile, time

import exchange, peers

FIGURES = os.path.join(os.path.dirname(__file__), "../cost.figures")
FEW, MANY = 200, 1200                       # requests of the two runs of a slope
MARGIN = 0.05                               # of instructions; system calls have none
# name: what the origin answers, the access log
CASES = {"plain": ("plain", "off"), "json_log": ("plain", "json"), "chunked_100": ("chunked", "off")}
# What may never be exceeded, whatever was recorded.
BUDGETS = {"plain.instructions": 6000, "json_log.instructions": 9000, "plain.data_calls": 4, "json_log.data_calls": 4}
RECEIVING = ("read", "readv", "recv", "recvfrom", "recvmsg", "recvmmsg")
SENDING = ("write", "writev", "send", "sendto", "sendmsg", "sendmmsg", "sendfile", "splice")


def exchanges(peer, answer, access_log, wrapper, requests):
    """Runs the proxy under `wrapper` (made from its folder) for so many requests; gives the peer, ended."""
    origin = exchange.Origin(exchange.ANSWERS[answer])
    proxy = peer(origin.port, access_log=access_log)
    proxy.wrapper = wrapper(proxy.folder)
    try:
        proxy.start()
        client = exchange.Client(proxy.port)
        content = exchange.content_of(exchange.ANSWERS[answer])
        for _ in range(requests):
            if client.ask() != content:
                raise exchange.BadAnswer("the content changed on its way")
        client.close()
        if access_log != "off":
            wait_for_lines(proxy.path("access.log"), requests)
        proxy.end_process()
    except BaseException:
        proxy.stop()
        raise
    finally:
        origin.close()
    return proxy


def wait_for_lines(path, count):
    """The log is written by another thread, so it may come a little later; it must come."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with open(path, "rb") as file:
            if file.read().count(b"\n") >= count:
                return
        time.sleep(0.05)
    raise exchange.BadAnswer("the access log has not %d lines" % count)


# Instructions

def without_debug_information(binary, folder):
    """A copy that Debian's valgrind can read: it stops at the DWARF 5 of newer compilers. The code is the same."""
    copy = os.path.join(folder, os.path.basename(binary))
    subprocess.run([peers.find("strip", "binutils"), "--strip-debug", "-o", copy, binary], check=True)
    return copy


def callgrind(folder):
    return ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--compress-strings=no",
            "--callgrind-out-file=" + os.path.join(folder, "callgrind")]


def thread_instructions(proxy):
    """Instructions by thread number, of the threads that receive from sockets."""
    counts = {}
    for path in glob.glob(proxy.path("callgrind-*")):
        with open(path, errors="replace") as file:
            text = file.read()
        total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
        if total and re.search(r"^c?fn=(?:(?:__libc_)?recv(?:from|msg)?\b|\$s9EventLoop6SocketO7receive)", text, re.M):
            counts[path.rpartition("-")[2]] = int(total[1])
    if not counts:
        raise peers.CannotStart("callgrind counted nothing:\n" + proxy.output())
    return counts


def instructions(peer, answer, access_log):
    """The slope of the thread that requests cost most: the worker."""
    counts = []
    for requests in (FEW, MANY):
        proxy = exchanges(peer, answer, access_log, callgrind, requests)
        counts.append(thread_instructions(proxy))
        proxy.stop()
    return max(counts[1][thread] - counts[0].get(thread, 0) for thread in counts[1]) / (MANY - FEW)


# System calls

def strace(folder):
    return ["strace", "-f", "-y", "-qq", "-o", os.path.join(folder, "strace")]


def worker_calls(proxy):
    """Counts of the thread with the most data calls: those on sockets, and calls of any name."""
    data, every = collections.Counter(), collections.defaultdict(collections.Counter)
    with open(proxy.path("strace"), errors="replace") as file:
        for line in file:
            call = re.match(r"(\d+)\s+(\w+)\((?:\d+<([^>]*)>)?", line)      # "resumed" lines do not match
            if not call:
                continue
            thread, name, descriptor = call.groups()
            every[thread][name] += 1
            if name in RECEIVING + SENDING and re.match(r"socket:|TCP|UNIX", descriptor or ""):
                data[thread] += 1
    if not data:
        raise peers.CannotStart("strace saw no data call:\n" + proxy.output())
    worker, count = data.most_common(1)[0]
    return count, every[worker]


def calls(peer, answer, access_log):
    """Data calls a request, and all calls a request by name."""
    counts = []
    for requests in (FEW, MANY):
        proxy = exchanges(peer, answer, access_log, strace, requests)
        counts.append(worker_calls(proxy))
        proxy.stop()
    (few, every_few), (many, every_many) = counts
    span = MANY - FEW
    names = {name: round((every_many[name] - every_few[name]) / span, 2) for name in every_many}
    return round((many - few) / span, 2), {name: n for name, n in names.items() if n}


def measure(peer):
    """Every figure by name; prints them as they come."""
    measured = {}
    for name, (answer, access_log) in CASES.items():
        if peer is peers.HAProxy and access_log != "off":
            continue                        # it writes no file
        measured[name + ".instructions"] = round(instructions(peer, answer, access_log))
        measured[name + ".data_calls"], every = calls(peer, answer, access_log)
        print("%-12s %6d instructions, %.2f data calls a request; all calls of the worker: %.2f (%s)" % (
            name, measured[name + ".instructions"], measured[name + ".data_calls"], sum(every.values()),
            ", ".join("%s %g" % item for item in sorted(every.items(), key=lambda item: -item[1]))), flush=True)
    return measured


# The gate

def read_figures():
    figures = {}
    try:
        with open(FIGURES) as file:
            for line in file:
                words = line.split("#")[0].split()
                if words:
                    figures[words[0]] = float(words[1])
    except FileNotFoundError:
        pass
    return figures


def write_figures(measured):
    with open(FIGURES, "w") as file:
        file.write("# What one request costs the worker thread. Written by `scripts/cost --record`; compared by "
                   "`scripts/cost`.\n")
        for name, value in measured.items():
            file.write("%-28s %g\n" % (name, value))


def judge(name, value, recorded):
    """(whether it passes, what to say)"""
    if value > BUDGETS.get(name, value):
        return False, "OVER THE BUDGET of %g" % BUDGETS[name]
    if recorded is None:
        return False, "NOT RECORDED: run scripts/cost --record"
    margin = MARGIN if name.endswith("instructions") else 0
    if value > recorded * (1 + margin):
        return False, "DEARER than the recorded %g" % recorded
    if value < recorded * (1 - MARGIN):
        return True, "cheaper than the recorded %g: record it" % recorded
    return True, "ok, recorded %g" % recorded


def main():
    parser = argparse.ArgumentParser(prog="scripts/cost", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the figures instead of comparing")
    parser.add_argument("--of", default="headfirst", choices=sorted(peers.PEERS), help="the proxy to measure")
    arguments = parser.parse_args()
    peer = peers.PEERS[arguments.of]
    try:
        with tempfile.TemporaryDirectory(prefix="headfirst-cost-") as folder:
            if peer is peers.Headfirst:
                os.environ["HEADFIRST_BINARY"] = without_debug_information(os.environ["HEADFIRST_BINARY"], folder)
            measured = measure(peer)
    except (peers.CannotStart, exchange.BadAnswer, OSError, subprocess.SubprocessError) as error:
        print("error: %s" % error, file=sys.stderr)
        return 2
    if arguments.of != "headfirst":
        return 0
    if arguments.record:
        write_figures(measured)
        print("recorded in scripts/cost.figures")
        return 0
    recorded, passed = read_figures(), True
    for name, value in measured.items():
        passes, verdict = judge(name, value, recorded.get(name))
        passed &= passes
        print("%s %-28s %8g  %s" % ("PASS" if passes else "FAIL", name, value, verdict))
    print("cost: %s" % ("passed" if passed else "FAILED"))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
