"""The behaviour probe with TLS on its sockets: the same cases, the same verdicts.

    tlsprobe.py SIDE CERTIFICATE KEY <arguments of probe.py>

SIDE is `client`, `upstream` or `both`: whose sockets speak TLS. The probe itself is not touched: its client already
asks `Client.tls` for a socket, and its origin is given one where it begins to serve a connection.

The socket is made of a plain one and OpenSSL over buffers in memory: a thread, a socket, no other. Python's own
SSLSocket does not do, since it cannot end one direction and still read the other. What means the end on a plain
socket means it here, too: `shutdown(SHUT_WR)` is a close_notify and then a FIN, `close` is a close_notify and then a
close, with SO_LINGER a reset and no close_notify. An end without close_notify is an error, as a reset is: what is
clean must have been said.
"""
import importlib.util, os, socket, ssl, struct, sys

RECEIVE_BYTES = 1 << 18
RECORDS_BYTES = 1 << 16

# No case is left out: each of them says something over TLS. Were one left out, its name would stand here with the
# reason, and its verdict would not count as passed.
LEFT_OUT = {}


class TLSSocket:
    """What the probe needs of a socket, over TLS. Plaintext that came is kept until it is asked for."""

    def __init__(self, plain, context, server_side):
        self.plain = plain
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=None if server_side else "localhost")
        self.pieces, self.failure = [], None
        self.is_over = self.has_ended_sending = self.resets = False
        self.handshake()
        self.decrypt()                          # plaintext may have come right behind the handshake

    def handshake(self):
        while True:
            try:
                self.tls.do_handshake()
                return self.flush()
            except ssl.SSLWantReadError:
                self.flush()
            except ssl.SSLError:
                self.flush()
                raise
            data = self.plain.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("the peer ended the connection in the handshake")
            self.incoming.write(data)

    def flush(self):
        if self.outgoing.pending:
            self.plain.sendall(self.outgoing.read())

    # Receiving. Everything that came is decrypted at once, so that nothing but a part of a record waits in OpenSSL.

    def decrypt(self):
        try:
            while True:
                data = self.tls.read(RECEIVE_BYTES)
                if not data:
                    self.is_over = True
                    break
                self.pieces.append(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_over = True
        except ssl.SSLError as error:
            self.failure = error
        # A key update is answered. Whether the answer can still be sent is no matter to a reader.
        try:
            self.flush()
        except OSError:
            pass

    def recv(self, count):
        while not self.pieces:
            if self.failure:
                raise self.failure
            if self.is_over:
                return b""
            data = self.plain.recv(RECEIVE_BYTES)
            if data:
                self.incoming.write(data)
                self.decrypt()
            else:
                self.failure = ConnectionResetError("an end without close_notify")
        data = self.pieces.pop(0)
        if len(data) > count:
            self.pieces.insert(0, data[count:])
            data = data[:count]
        return data

    def recv_into(self, room):
        data = self.recv(len(room))
        room[:len(data)] = data
        return len(data)

    # Sending.

    def sendall(self, data):
        view = memoryview(data)
        while len(view):
            piece = view[:RECORDS_BYTES]
            try:
                self.tls.write(piece)
            except ssl.SSLError as error:
                raise OSError("cannot be sent: %s" % error)
            view = view[len(piece):]
            self.flush()

    def send(self, data):
        self.sendall(data)
        return len(data)

    # The end.

    def end_sending(self):
        if self.has_ended_sending or self.failure:
            return
        self.has_ended_sending = True
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass                                # it waits for the peer's close_notify; ours is written
        try:
            self.flush()
        except OSError:
            pass                                # the peer is gone

    def shutdown(self, how):
        """SHUT_RDWR comes from another thread, for a connection that is to be broken off."""
        if how == socket.SHUT_WR:
            self.end_sending()
        self.plain.shutdown(how)

    def close(self):
        if self.plain.fileno() >= 0 and not self.resets:
            self.end_sending()
        self.plain.close()

    def setsockopt(self, level, option, value):
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self.resets = struct.unpack("ii", value) == (1, 0)
        self.plain.setsockopt(level, option, value)

    def settimeout(self, seconds):
        self.plain.settimeout(seconds)


class Wrapper:
    """Stands where the probe looks for an SSLContext."""

    def __init__(self, context):
        self.context = context

    def wrap_socket(self, plain, **_):
        return TLSSocket(plain, self.context, server_side=False)


def client_context(certificate):
    context = ssl.create_default_context(cafile=certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return Wrapper(context)


def serve_by_tls(origin, certificate, key):
    """Lets an origin speak TLS from the first byte of each connection."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    serve = origin.serve

    def serve_tls(self, plain):
        plain.settimeout(20)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wrapped = TLSSocket(plain, context, server_side=True)
        except OSError:
            plain.close()
            return
        serve(self, wrapped)
    origin.serve = serve_tls


def load_probe():
    """The probe, as a module."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../Tests/Conformance/probe.py")
    specification = importlib.util.spec_from_file_location("probe", path)
    probe = importlib.util.module_from_spec(specification)
    sys.modules["probe"] = probe
    specification.loader.exec_module(probe)
    return probe


def main():
    side, certificate, key = sys.argv[1:4]
    probe = load_probe()
    if side in ("client", "both"):
        probe.Client.tls = client_context(certificate)
    if side in ("upstream", "both"):
        serve_by_tls(probe.Origin, certificate, key)
    for name, reason in LEFT_OUT.items():
        print("not over TLS: %s: %s" % (name, reason), flush=True)
    skip = ["--skip", ",".join(LEFT_OUT)] if LEFT_OUT else []
    sys.argv = [probe.__file__] + sys.argv[4:] + skip
    return probe.main()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)                              # the probe's threads do not end by themselves
