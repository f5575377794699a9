"""Frames that are not as RFC 9113 and RFC 7541 want them, and some that are: what h2spec asks a server, section by section.

Cases of http2probe.py: `h-frame-SECTION/NUMBER`. Each sends bytes behind the preface, and says which ends are right: a stream
error may always be a connection error (RFC 9113 section 5.4.1), and a connection error may be a close alone.
"""
import struct

# Error codes (RFC 9113 section 7).
PROTOCOL, FLOW, CLOSED, SIZE, COMPRESSION = 1, 3, 5, 6, 9
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITIZED, ACK = 1, 4, 8, 32, 1


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


GET = b"\x82\x86\x84" + literal(b":authority", b"probe.test")
POST = b"\x83" + GET[1:]


def head(stream=1, block=GET, flags=END_STREAM | END_HEADERS):
    return frame(HEADERS, flags, stream, block)


def number(value):
    return struct.pack(">I", value)


def setting(key, value):
    return frame(SETTINGS, payload=struct.pack(">HI", key, value))


def extra(*fields):
    return head(block=GET + b"".join(literal(n, v) for n, v in fields))


OPEN = head(block=POST, flags=END_HEADERS)
# The content of an answer is larger than any window here, so that its stream stays open.
LARGE = b"\x82\x86" + literal(b":path", b"/large") + GET[3:]


def conn(*codes):
    return {"goaway %d" % c for c in codes} | {"closed"}


def stream(*codes):
    return conn(*codes) | {"reset %d" % c for c in codes}


ANSWER = {"200"}
REFUSED = stream(PROTOCOL) | {"400"}
# number: what is sent, what may come of it. A tuple of bytes is sent with a wait for the answer's end between.
CASES = {
    "4.1/1": (frame(0x16, payload=b"12345678") + head(), ANSWER), "4.1/2": (frame(PING, 0x16 & ~1, payload=b"12345678") + head(), ANSWER),
    "4.1/3": (frame(PING, 0, 1 << 31, b"12345678") + head(), ANSWER),
    "4.2/1": (OPEN + frame(DATA, END_STREAM, 1, b"x" * 16384), ANSWER), "4.2/2": (OPEN + frame(DATA, END_STREAM, 1, b"x" * 16385), stream(SIZE)),
    "4.2/3": (head(block=GET + b"\x82" * 16384), conn(SIZE)),
    "4.3/1": (head(block=GET + b"\x7f\xff\xff\xff\xff\xff\xff"), conn(COMPRESSION)),
    "4.3/2": (head(flags=END_STREAM) + frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"), conn(PROTOCOL)),
    "4.3/3": (head(flags=END_STREAM) + head(3), conn(PROTOCOL)),
    "5.1/1": (frame(DATA, END_STREAM, 1, b"x"), conn(PROTOCOL)), "5.1/2": (frame(RST, 0, 1, number(8)), conn(PROTOCOL)),
    "5.1/3": (frame(WINDOW, 0, 1, number(100)), conn(PROTOCOL)), "5.1/4": (frame(CONTINUATION, END_HEADERS, 1, GET), conn(PROTOCOL)),
    "5.1/5": (head(block=LARGE) + frame(DATA, END_STREAM, 1, b"x"), stream(CLOSED, PROTOCOL)),
    "5.1/6": (head(block=LARGE) + head(), stream(CLOSED, PROTOCOL)),
    "5.1/7": (head(block=LARGE) + frame(CONTINUATION, END_HEADERS, 1, GET), conn(PROTOCOL, CLOSED)),
    "5.1/8": (OPEN + frame(RST, 0, 1, number(8)) + frame(DATA, END_STREAM, 1, b"x") + head(3), stream(CLOSED) | {"ignored"}),
    "5.1/9": (OPEN + frame(RST, 0, 1, number(8)) + head(), stream(CLOSED, PROTOCOL)),
    "5.1/10": (OPEN + frame(RST, 0, 1, number(8)) + frame(CONTINUATION, END_HEADERS, 1, GET), conn(PROTOCOL, CLOSED)),
    "5.1/11": ((head(), frame(DATA, END_STREAM, 1, b"x") + head(3)), stream(CLOSED, PROTOCOL) | {"ignored"}),
    "5.1/12": ((head(), head()), conn(CLOSED, PROTOCOL)), "5.1/13": ((head(), frame(CONTINUATION, END_HEADERS, 1, GET)), conn(PROTOCOL, CLOSED)),
    "5.1.1/1": (head(2), conn(PROTOCOL)), "5.1.1/2": ((head(5), head(3)), conn(PROTOCOL)),
    "5.3.1/1": (head(block=b"\0\0\0\1\x10" + GET, flags=END_STREAM | END_HEADERS | PRIORITIZED), stream(PROTOCOL) | ANSWER),
    "5.3.1/2": (frame(PRIORITY, 0, 1, b"\0\0\0\1\x10") + head(), stream(PROTOCOL) | ANSWER),
    "5.5/2": (head(flags=END_STREAM) + frame(0x16, payload=b"x"), conn(PROTOCOL)),
    "6.1/1": (frame(DATA, END_STREAM, 0, b"x"), conn(PROTOCOL)), "6.1/3": (OPEN + frame(DATA, END_STREAM | PADDED, 1, b"\x09x"), conn(PROTOCOL)),
    "6.2/3": (head(0), conn(PROTOCOL)), "6.2/4": (head(block=b"\xff" + GET, flags=END_STREAM | END_HEADERS | PADDED), conn(PROTOCOL)),
    "6.3/1": (frame(PRIORITY, 0, 0, b"\0\0\0\0\x10"), conn(PROTOCOL)), "6.3/2": (OPEN + frame(PRIORITY, 0, 1, b"\0\0\0\0"), stream(SIZE)),
    "6.4/1": (frame(RST, 0, 0, number(8)), conn(PROTOCOL)), "6.4/3": (OPEN + frame(RST, 0, 1, b"\0\0\0"), conn(SIZE)),
    "6.5/1": (frame(SETTINGS, ACK, payload=b"\0"), conn(SIZE)), "6.5/2": (frame(SETTINGS, 0, 1, b"\0\3\0\0\0\x64"), conn(PROTOCOL)),
    "6.5/3": (frame(SETTINGS, payload=b"\0\3\0"), conn(SIZE)), "6.5.2/1": (setting(2, 2), conn(PROTOCOL)),
    "6.5.2/2": (setting(4, 1 << 31), conn(FLOW)), "6.5.2/3": (setting(5, 16383), conn(PROTOCOL)), "6.5.2/4": (setting(5, 1 << 24), conn(PROTOCOL)),
    "6.5.2/5": (setting(0xFF, 1) + head(), ANSWER), "6.5.2/push": (setting(2, 1) + head(), ANSWER),
    "6.7/2": (frame(PING, ACK, payload=b"12345678") + head(), ANSWER), "6.7/3": (frame(PING, 0, 1, b"12345678"), conn(PROTOCOL)),
    "6.7/4": (frame(PING, payload=b"1234567"), conn(SIZE)), "6.8/1": (frame(GOAWAY, 0, 1, b"\0" * 8), conn(PROTOCOL)),
    "6.9/2": (frame(WINDOW, 0, 0, number(0)), conn(PROTOCOL)), "6.9/3": (head(block=LARGE) + frame(WINDOW, 0, 1, number(0)), stream(PROTOCOL)),
    "6.9/4": (frame(WINDOW, 0, 0, b"\0\0\1"), conn(SIZE)),
    "6.9.1/2": (frame(WINDOW, 0, 0, number((1 << 31) - 1)) * 2, conn(FLOW)),
    "6.9.1/3": (head(block=LARGE) + frame(WINDOW, 0, 1, number((1 << 31) - 1)) * 2, stream(FLOW)),
    "6.10/1": (head(block=GET[:5], flags=END_STREAM) + frame(CONTINUATION, 0, 1, GET[5:9]) + frame(CONTINUATION, END_HEADERS, 1, GET[9:]), ANSWER),
    "6.10/2": (head(block=GET[:5], flags=END_STREAM) + frame(CONTINUATION, 0, 1, GET[5:9]) + frame(DATA, 1, 1, b"x"), conn(PROTOCOL)),
    "6.10/3": (head(flags=END_STREAM) + frame(CONTINUATION, END_HEADERS, 0, b""), conn(PROTOCOL)),
    "6.10/4": (OPEN + frame(CONTINUATION, END_HEADERS, 1, b""), conn(PROTOCOL)),
    "6.10/6": (OPEN + frame(DATA, 0, 1, b"x") + frame(CONTINUATION, END_HEADERS, 1, b""), conn(PROTOCOL)),
    "8.1/1": (OPEN + head(flags=END_HEADERS, block=literal(b"x", b"y")), stream(PROTOCOL) | {"400"}),
    "8.1.2/1": (extra((b"X-Upper", b"1")), REFUSED), "8.1.2.1/1": (extra((b":test", b"1")), REFUSED), "8.1.2.1/2": (extra((b":status", b"200")), REFUSED),
    "8.1.2.1/3": (OPEN + head(block=literal(b":method", b"GET")), stream(PROTOCOL) | {"400"}),
    "8.1.2.1/4": (head(block=b"\x82\x86" + literal(b"x", b"y") + b"\x84"), REFUSED),
    "8.1.2.2/1": (extra((b"connection", b"keep-alive")), REFUSED), "8.1.2.2/2": (extra((b"te", b"trailers, deflate")), REFUSED),
    "8.1.2.3/1": (head(block=b"\x82\x86" + literal(b":path", b"") + GET[3:]), REFUSED), "8.1.2.3/2": (head(block=GET[1:]), REFUSED),
    "8.1.2.3/3": (head(block=b"\x82\x84" + GET[3:]), REFUSED), "8.1.2.3/4": (head(block=b"\x82\x86" + GET[3:]), REFUSED),
    "8.1.2.3/5": (head(block=b"\x82" + GET), REFUSED), "8.1.2.3/6": (head(block=b"\x82\x86\x86\x84" + GET[3:]), REFUSED),
    "8.1.2.3/7": (head(block=b"\x82\x86\x84\x84" + GET[3:]), REFUSED),
    "8.1.2.6/1": (head(block=POST + literal(b"content-length", b"1"), flags=END_HEADERS) + frame(DATA, 1, 1, b"test"), REFUSED),
    "8.1.2.6/2": (head(block=POST + literal(b"content-length", b"1"), flags=END_HEADERS) + frame(DATA, 0, 1, b"te") + frame(DATA, 1, 1, b"st"), REFUSED),
    "8.2/1": (frame(PUSH, END_HEADERS, 1, number(2) + GET), conn(PROTOCOL)),
    "hpack/2.3.3/1": (head(block=GET + b"\xc6"), conn(COMPRESSION)), "hpack/2.3.3/2": (head(block=GET + b"\x7f\x00\x01a"), conn(COMPRESSION)),
    "hpack/4.2/1": (head(block=GET + b"\x20"), conn(COMPRESSION)), "hpack/5.2/1": (head(block=GET + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"), conn(COMPRESSION)),
    "hpack/5.2/2": (head(block=GET + b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"), conn(COMPRESSION)), "hpack/5.2/3": (head(block=GET + b"\0\1x\x84\xff\xff\xff\xff"), conn(COMPRESSION)),
    "hpack/6.1/1": (head(block=GET + b"\x80"), conn(COMPRESSION)), "hpack/6.3/1": (head(block=b"\x3f\xe1\xff\x03" + GET), conn(COMPRESSION)),
    "9218/1": (frame(0x10, payload=number(1) + b"u=1") + head(), ANSWER), "9218/2": (frame(0x10, 0, 1, number(1) + b"u=1"), conn(PROTOCOL)),
    "9218/3": (frame(0x10, payload=number(0) + b"u=1"), conn(PROTOCOL)),
}


def add_cases(probe, connect):
    """Adds them to the probe's. `connect` gives a connection of http2probe.Frames."""
    def run(p, sent, good):
        p.origin.scripts[None] = (lambda x: x.ok("x" * (1 << 20) if x.msg.target == "/large" else "ok"), probe.Notes())
        c = connect(p)
        parts = sent if isinstance(sent, tuple) else (sent,)
        for number_, part in enumerate(parts):
            c.s.sendall(part)
            if number_ + 1 < len(parts):
                if c.outcome(stream=int.from_bytes(part[5:9], "big")) != "200":
                    return probe.FAIL, "the first request is not answered"
                c.drain(0.1)
        outcome = c.judge(good)
        c.close()
        return probe.PASS if outcome in good else probe.FAIL, outcome

    for name, (sent, good) in CASES.items():
        probe.case("h-frame-" + name)(lambda p, sent=sent, good=good: run(p, sent, good))
