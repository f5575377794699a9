"""A small origin and a small client for measures that must be deterministic: blocking sockets, whole answers."""
import socket, threading

REQUEST = (b"GET /items/4711?page=2 HTTP/1.1\r\nHost: shop.example\r\n"
           b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
           b"Accept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n\r\n")
HEAD = (b"HTTP/1.1 200 OK\r\nDate: Sat, 01 Nov 2025 12:00:00 GMT\r\nServer: origin/1.0\r\n"
        b"Content-Type: application/json\r\nCache-Control: no-store\r\n")
# name: what the origin answers, in one write
ANSWERS = {
    "plain": HEAD + b"Content-Length: 5\r\n\r\nhello",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 100 + b"0\r\n\r\n",
}


class Origin:
    """Answers every request without content with the same bytes; keeps connections."""

    def __init__(self, answer):
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        with connection:
            try:
                while data := connection.recv(65536):
                    received += data
                    while b"\r\n\r\n" in received:
                        _, _, received = received.partition(b"\r\n\r\n")
                        connection.sendall(self.answer)
            except OSError:
                pass

    def close(self):
        self.listener.close()


class BadAnswer(Exception):
    pass


class Client:
    """One keep-alive connection; `ask` sends a request and reads the whole answer."""

    def __init__(self, port, timeout=30):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request=REQUEST):
        """The content of the answer, without its chunks."""
        self.socket.sendall(request)
        answer = b""
        while not is_whole(answer):
            data = self.socket.recv(262144)
            if not data:
                raise BadAnswer("closed after %r" % answer[:200])
            answer += data
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise BadAnswer("answered %r" % answer[:200])
        return content_of(answer)

    def close(self):
        self.socket.close()


def is_whole(answer):
    head, end, content = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return len(content) >= int(value)
    return content.endswith(b"0\r\n\r\n")


def content_of(answer):
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"\r\ntransfer-encoding:" not in head.lower():
        return rest
    content = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return content
        content += rest[:count]
        rest = rest[count + 2:]
