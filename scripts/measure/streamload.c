// Load that lasts, cheap enough that the proxy between is what is measured. One process is the origin, each other one
// has clients of one kind:
//
//     streamload origin                              serves on a free port of 127.0.0.1, which it prints
//     streamload streams PROXY COUNT EVENTS LOW HIGH     streams of numbered events (0: without end), the next one
//                                                    after LOW to HIGH ms, another time for each (0: only the first)
//     streamload tunnels PROXY COUNT PERIOD          64 bytes there and back each PERIOD microseconds
//     streamload kept PROXY COUNT PERIOD             GETs on kept connections each PERIOD microseconds (0: one each)
//     streamload uploads PROXY COUNT BYTES RATE      POSTs, as fast as taken; the origin reads RATE bytes a second of
//                                                    each at the most
//
// Clients print a line of JSON when each connection has got its answer's head or failed (uploads: when each is open or
// failed), another for each line of input, and the last at the input's end, which ends them. Every byte is looked at:
// an event that is missing or twice, an echo of other bytes and an answer cut short are told apart from each other.
// A kept connection that closes is opened again, and counts as unannounced unless the answer before said
// `Connection: close`.
#include "load.h"
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { DESCRIPTORS = 1 << 16, BLOCK = 256 << 10, BATCH = 128, HEAD_MAX = 2048, MESSAGE = 64 };
enum { CONNECTING_MAX = 200, CLIENTS_OF_AN_ADDRESS = 3000, SLOW_BUFFER = 64 << 10 };
static const double TURN = 0.002, SLOW_TURN = 0.1;      // seconds between two looks at what is due at the origin
static const double BEHIND_MAX = 0.1;                   // seconds that a client's schedule may lag behind

static char block[BLOCK];

static int would_block(void) { return errno == EAGAIN || errno == EINTR; }

static int send_all(int descriptor, const char *bytes, size_t count) {
    return send(descriptor, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)count;
}

// The origin.

enum Work { AWAITS_REQUEST, STREAMS_EVENTS, ECHOES, READS_SLOWLY };

struct Server {
    enum Work work;
    char *head;
    size_t head_count;
    double due, interval;       // of the next event or piece
    uint64_t next, events;      // numbers of events
    uint64_t left;              // of a request's content
    size_t piece;
    int timed_at;               // place in `timed`, from 1; 0 if nothing is ever due
};

static struct Server servers[DESCRIPTORS];              // by descriptor
static int timed[DESCRIPTORS], timed_count;

static void set_timed(int descriptor, int is_timed) {
    struct Server *server = &servers[descriptor];
    if (is_timed == (server->timed_at != 0)) return;
    if (is_timed) {
        timed[timed_count++] = descriptor;
        server->timed_at = timed_count;
        return;
    }
    int last = timed[--timed_count];
    timed[server->timed_at - 1] = last;
    servers[last].timed_at = server->timed_at;
    server->timed_at = 0;
}

static void end_server(int descriptor) {
    set_timed(descriptor, 0);
    free(servers[descriptor].head);
    servers[descriptor] = (struct Server){0};
    close(descriptor);
}

static int answer_small(int descriptor) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
    servers[descriptor].work = AWAITS_REQUEST;
    return send_all(descriptor, answer, sizeof answer - 1);
}

static int send_event(int descriptor) {
    struct Server *server = &servers[descriptor];
    char chunk[160];
    int is_last = server->next + 1 == server->events;
    int length = snprintf(chunk + 80, 64, "data: %llu\n\n", (unsigned long long)server->next);
    length = snprintf(chunk, 80, "%x\r\n%.*s\r\n%s", length, length, chunk + 80, is_last ? "0\r\n\r\n" : "");
    server->next++;
    server->due += server->interval;
    if (is_last) {
        server->work = AWAITS_REQUEST;
        set_timed(descriptor, 0);
    }
    return send_all(descriptor, chunk, length);
}

static int read_piece(int descriptor) {
    struct Server *server = &servers[descriptor];
    size_t wanted = server->piece < server->left ? server->piece : server->left;
    server->due += server->interval;
    ssize_t count = recv(descriptor, NULL, wanted, MSG_TRUNC | MSG_DONTWAIT);
    if (count <= 0) return count < 0 && would_block();
    server->left -= count;
    if (server->left) return 1;
    set_timed(descriptor, 0);
    watch(descriptor, EPOLL_CTL_MOD, EPOLLIN);
    return answer_small(descriptor);
}

static uint64_t number_behind(const char *text, const char *name) {
    const char *found = strcasestr(text, name);
    return found ? strtoull(found + strlen(name), NULL, 10) : 0;
}

static int begin_answer(int descriptor, size_t head_length) {
    static const char events_head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                      "Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n";
    static const char switching[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                    "Connection: Upgrade\r\n\r\n";
    struct Server *server = &servers[descriptor];
    const char *path = strchr(server->head, '/');
    size_t behind = server->head_count - head_length;
    server->head[head_length - 1] = 0;
    server->head_count = 0;
    if (!path) return 0;
    if (!strncmp(path, "/events", 7)) {
        server->work = STREAMS_EVENTS;
        server->next = 0;
        server->events = number_behind(path, "events=");
        server->interval = number_behind(path, "every=") * 1e-3;
        server->due = now();
        if (!send_all(descriptor, events_head, sizeof events_head - 1) || !send_event(descriptor)) return 0;
        set_timed(descriptor, server->work == STREAMS_EVENTS && server->interval > 0);
        return 1;
    }
    if (!strncmp(path, "/echo", 5)) {
        server->work = ECHOES;
        return send_all(descriptor, switching, sizeof switching - 1);
    }
    if (!strncmp(path, "/slow", 5)) {
        int buffer = SLOW_BUFFER;
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
        server->work = READS_SLOWLY;
        server->left = number_behind(path, "content-length: ") - behind;
        server->interval = SLOW_TURN;
        server->piece = number_behind(path, "rate=") * SLOW_TURN;
        server->due = now();
        watch(descriptor, EPOLL_CTL_MOD, 0);
        set_timed(descriptor, 1);
        return 1;
    }
    return answer_small(descriptor);
}

static int read_request(int descriptor) {
    struct Server *server = &servers[descriptor];
    if (!server->head && !(server->head = malloc(HEAD_MAX + 1))) fail("malloc");
    ssize_t count = recv(descriptor, server->head + server->head_count, HEAD_MAX - server->head_count, MSG_DONTWAIT);
    if (count <= 0) return count < 0 && would_block();
    server->head_count += count;
    server->head[server->head_count] = 0;
    char *end = strstr(server->head, "\r\n\r\n");
    if (!end) return server->head_count < HEAD_MAX;
    return begin_answer(descriptor, end + 4 - server->head);
}

// What is read of others than requests: an echo's bytes, or only the end of the connection.
static int read_rest(int descriptor) {
    ssize_t count = recv(descriptor, block, BLOCK, MSG_DONTWAIT);
    if (count <= 0) return count < 0 && would_block();
    return servers[descriptor].work == ECHOES && send_all(descriptor, block, count);
}

static void accept_all(int listener) {
    int descriptor, on = 1;
    while ((descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (descriptor >= DESCRIPTORS) fail("more descriptors than there is room for");
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(descriptor, EPOLL_CTL_ADD, EPOLLIN);
    }
    if (!would_block() && errno != ECONNABORTED) fail("accept");
}

static void do_what_is_due(double time) {
    for (int at = timed_count - 1; at >= 0; at--) {     // backwards: what ends moves the last into its place
        int descriptor = timed[at];
        if (servers[descriptor].due > time) continue;
        int lives = servers[descriptor].work == READS_SLOWLY ? read_piece(descriptor) : send_event(descriptor);
        if (!lives) end_server(descriptor);
    }
}

static void serve(void) {
    struct sockaddr_in address = loopback(0, 1);
    socklen_t length = sizeof address;
    struct epoll_event events[BATCH];
    double looked = 0;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (void *)&address, length) || listen(listener, 4096)) fail("listen");
    getsockname(listener, (void *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        int count = epoll_wait(poller, events, BATCH, timed_count ? (int)(TURN * 1e3) : -1);
        for (int at = 0; at < count; at++) {
            int descriptor = events[at].data.fd, lives = 1;
            if (descriptor == listener) {
                accept_all(listener);
                continue;
            }
            switch (servers[descriptor].work) {
            case AWAITS_REQUEST: lives = read_request(descriptor); break;
            case READS_SLOWLY: lives = 0; break;        // only an error or a reset is told of
            case STREAMS_EVENTS:
            case ECHOES: lives = read_rest(descriptor); break;
            }
            if (!lives) end_server(descriptor);
        }
        double time = now();
        if (time - looked >= TURN) do_what_is_due(looked = time);
    }
}

// The clients.

enum Kind { STREAMS, TUNNELS, KEPT, UPLOADS };
enum State { CLOSED, CONNECTS, AWAITS_HEAD, READS_CONTENT, READS_CHUNKS, ECHOED, IDLE, OVER };
enum Chunk { SIZE, SIZE_END, DATA, DATA_CR, DATA_LF, LAST_CR, LAST_LF };

struct Client {
    enum State state;
    enum Chunk chunk;
    int descriptor, has_begun, will_close;
    char head[HEAD_MAX], expected[96];      // expected: the event or the echo that comes next
    size_t head_count, expected_count, expected_at;
    uint64_t next, left, to_send;           // left: of the chunk or the content
    double due, asked;
};

static struct Client *clients, *by_descriptor[DESCRIPTORS];
static enum Kind kind;
static int proxy, client_count, opened_count, connecting, begun, timer, low, high;
static uint64_t events_wanted, upload_bytes, rate;
static double period;

static struct {
    uint64_t ok, refused, other;            // answers: 200 or 101, 503, the others
    uint64_t pieces;                        // events and echoes that were right
    uint64_t complete, cut, wrong, unannounced, failed, connects;
} told;
static char trouble[160];
static uint32_t *latencies;                 // microseconds, of requests and echoes
static size_t latency_count, latency_room;

__attribute__((format(printf, 2, 3))) static void note(uint64_t *counter, const char *format, ...) {
    va_list arguments;
    ++*counter;
    if (*trouble) return;                   // the first one is enough
    va_start(arguments, format);
    vsnprintf(trouble, sizeof trouble, format, arguments);
    va_end(arguments);
    for (char *at = trouble; *at; at++)
        if (*at < ' ' || *at == '"' || *at == '\\') *at = ' ';
}

static void keep_latency(double seconds) {
    if (latency_count == latency_room) {
        latency_room = latency_room ? 2 * latency_room : 1 << 16;
        if (!(latencies = realloc(latencies, latency_room * sizeof *latencies))) fail("realloc");
    }
    latencies[latency_count++] = seconds * 1e6;
}

static int compare(const void *one, const void *other) {
    uint32_t left = *(const uint32_t *)one, right = *(const uint32_t *)other;
    return (left > right) - (left < right);
}

static double latency(double share) {
    return latency_count ? latencies[(size_t)(share * (latency_count - 1))] * 1e-6 : 0;
}

static void tell(void) {
    int open = 0;
    for (int at = 0; at < client_count; at++) open += clients[at].state != CLOSED && clients[at].state != OVER;
    qsort(latencies, latency_count, sizeof *latencies, compare);
    printf("{\"open\": %d, \"ok\": %llu, \"refused\": %llu, \"other\": %llu, \"pieces\": %llu, \"complete\": %llu, "
           "\"cut\": %llu, \"wrong\": %llu, \"unannounced\": %llu, \"failed\": %llu, \"connects\": %llu, "
           "\"median\": %.6f, \"p99\": %.6f, \"max\": %.6f, \"trouble\": \"%s\"}\n",
           open, (unsigned long long)told.ok, (unsigned long long)told.refused, (unsigned long long)told.other,
           (unsigned long long)told.pieces, (unsigned long long)told.complete, (unsigned long long)told.cut,
           (unsigned long long)told.wrong, (unsigned long long)told.unannounced, (unsigned long long)told.failed,
           (unsigned long long)told.connects, latency(0.5), latency(0.99), latency(1), trouble);
    fflush(stdout);
}

static void has_begun(struct Client *client) {
    if (client->has_begun) return;
    client->has_begun = 1;
    if (++begun == client_count) tell();
}

static void end_client(struct Client *client) {
    if (client->state == CONNECTS) connecting--;
    by_descriptor[client->descriptor] = NULL;
    close(client->descriptor);
    client->state = kind == KEPT && period > 0 ? CLOSED : OVER;       // a kept one is opened again
    has_begun(client);
}

static void open_client(struct Client *client) {
    int at = client - clients, on = 1;
    struct sockaddr_in from = loopback(0, 1 + at / CLIENTS_OF_AN_ADDRESS), to = loopback(proxy, 1);
    client->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (client->descriptor < 0 || client->descriptor >= DESCRIPTORS) fail("socket");
    setsockopt(client->descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(client->descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(client->descriptor, (void *)&from, sizeof from)) fail("bind");
    by_descriptor[client->descriptor] = client;
    client->state = CONNECTS;
    connecting++;
    told.connects++;
    if (connect(client->descriptor, (void *)&to, sizeof to) && errno != EINPROGRESS) {
        note(&told.failed, "connect: %s", strerror(errno));
        end_client(client);
        return;
    }
    watch(client->descriptor, EPOLL_CTL_ADD, EPOLLOUT);
}

static void expect_event(struct Client *client) {
    client->expected_count = snprintf(client->expected, sizeof client->expected, "data: %llu\n\n",
                                      (unsigned long long)client->next);
    client->expected_at = 0;
}

static void send_echo(struct Client *client) {
    char *at = client->expected;
    memset(at, 'a' + client->next % 26, MESSAGE);
    at[snprintf(at, MESSAGE, "%d of %td", (int)client->next, client - clients)] = ' ';
    client->expected_count = MESSAGE;
    client->expected_at = 0;
    client->asked = now();
    client->due = client->asked + period;
    if (!send_all(client->descriptor, client->expected, MESSAGE)) {
        note(&told.cut, "tunnel %td takes nothing: %s", client - clients, strerror(errno));
        end_client(client);
    }
}

static void send_request(struct Client *client) {
    char head[512];
    int at = client - clients, every = low + (high > low ? at * 37 % (high - low + 1) : 0), length = 0;
    switch (kind) {
    case STREAMS:
        length = snprintf(head, sizeof head, "GET /events?every=%d&events=%llu HTTP/1.1\r\nHost: soak.example\r\n"
                          "Accept: text/event-stream\r\n\r\n", every, (unsigned long long)events_wanted);
        break;
    case TUNNELS:
        length = snprintf(head, sizeof head, "GET /echo HTTP/1.1\r\nHost: soak.example\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\n\r\n");
        break;
    case KEPT: length = snprintf(head, sizeof head, "GET /small HTTP/1.1\r\nHost: soak.example\r\n\r\n"); break;
    case UPLOADS:
        length = snprintf(head, sizeof head, "POST /slow?rate=%llu HTTP/1.1\r\nHost: soak.example\r\n"
                          "Content-Length: %llu\r\n\r\n", (unsigned long long)rate, (unsigned long long)upload_bytes);
        client->to_send = upload_bytes;
    }
    client->state = AWAITS_HEAD;
    client->head_count = 0;
    client->asked = now();
    // A schedule, not a pause behind each answer; but what was missed long ago is not sent in a heap afterwards.
    client->due += period;
    if (client->due < client->asked - BEHIND_MAX) client->due = client->asked - BEHIND_MAX;
    if (!send_all(client->descriptor, head, length)) {
        note(&told.unannounced, "no request is taken: %s", strerror(errno));
        end_client(client);
    }
}

static int has_value(const char *head, const char *name, const char *value) {
    const char *field = strcasestr(head, name), *end = field ? strstr(field + 2, "\r\n") : NULL;
    const char *found = field ? strcasestr(field, value) : NULL;
    return found && found < end;
}

static void answer_is_over(struct Client *client) {
    keep_latency(now() - client->asked);
    told.complete++;
    client->state = IDLE;
    if (kind == UPLOADS || client->will_close) end_client(client);
}

static void begin_content(struct Client *client) {
    int status = atoi(client->head + strlen("HTTP/1.1 ")), line = strcspn(client->head, "\r");
    if (status == 200 || status == 101) told.ok++;
    else if (status == 503) note(&told.refused, "%.*s", line, client->head);
    else note(&told.other, "%.*s", line, client->head);
    client->will_close = has_value(client->head, "\r\nconnection:", "close");
    client->next = 0;
    if (kind == TUNNELS && status == 101) {
        client->state = ECHOED;
        send_echo(client);
    } else if (has_value(client->head, "\r\ntransfer-encoding:", "chunked")) {
        client->state = READS_CHUNKS;
        client->chunk = SIZE;
        client->left = 0;
        expect_event(client);
    } else {
        client->state = READS_CONTENT;
        client->left = number_behind(client->head, "\r\ncontent-length: ");
        if (!client->left) answer_is_over(client);
    }
    has_begun(client);
}

// Gives 0 when the byte is another than expected. What a 503 says in chunks is not looked at.
static int is_expected(struct Client *client, char byte) {
    if (kind == STREAMS && byte != client->expected[client->expected_at]) {
        note(&told.wrong, "stream %td: not event %llu", client - clients, (unsigned long long)client->next);
        return 0;
    }
    if (++client->expected_at < client->expected_count) return 1;
    told.pieces++;
    client->next++;
    expect_event(client);
    return 1;
}

static int digit(char byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    byte |= 32;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static int read_chunk_byte(struct Client *client, char byte) {
    switch (client->chunk) {
    case SIZE:
        if (byte == '\r') client->chunk = SIZE_END;
        else if (digit(byte) < 0) return 0;
        else client->left = client->left * 16 + digit(byte);
        return 1;
    case SIZE_END:
        client->chunk = client->left ? DATA : LAST_CR;
        return byte == '\n';
    case DATA:
        if (!--client->left) client->chunk = DATA_CR;
        return is_expected(client, byte);
    case DATA_CR:
        client->chunk = DATA_LF;
        return byte == '\r';
    case DATA_LF:
        client->chunk = SIZE;
        return byte == '\n';
    case LAST_CR:
        client->chunk = LAST_LF;
        return byte == '\r';
    case LAST_LF:
        if (kind == STREAMS && events_wanted && client->next != events_wanted)
            note(&told.wrong, "stream %td ends after %llu events", client - clients, (unsigned long long)client->next);
        else answer_is_over(client);
        return byte == '\n';
    }
    return 0;
}

static int read_echo_byte(struct Client *client, char byte) {
    if (byte != client->expected[client->expected_at]) {
        note(&told.wrong, "tunnel %td: another echo", client - clients);
        return 0;
    }
    if (++client->expected_at < client->expected_count) return 1;
    keep_latency(now() - client->asked);
    told.pieces++;
    client->next++;
    client->expected_count = 0;             // the next is sent when it is due
    return 1;
}

// Gives 0 when the byte has no place there.
static int read_byte(struct Client *client, char byte) {
    switch (client->state) {
    case AWAITS_HEAD:
        if (client->head_count + 1 == HEAD_MAX) return 0;
        client->head[client->head_count++] = byte;
        client->head[client->head_count] = 0;
        if (byte == '\n' && client->head_count >= 4 && !memcmp(client->head + client->head_count - 4, "\r\n\r\n", 4))
            begin_content(client);
        return 1;
    case READS_CONTENT:
        if (!--client->left) answer_is_over(client);
        return 1;
    case READS_CHUNKS: return read_chunk_byte(client, byte);
    case ECHOED: return client->expected_count && read_echo_byte(client, byte);
    default: return 0;
    }
}

static void was_closed(struct Client *client, const char *why) {
    int at = client - clients;
    if (client->state == IDLE && kind == KEPT) note(&told.unannounced, "kept connection %d closed: %s", at, why);
    else if (client->state == AWAITS_HEAD && !client->head_count) note(&told.cut, "%d has no answer: %s", at, why);
    else if (client->state != IDLE)
        note(&told.cut, "%d was cut after %llu pieces: %s", at, (unsigned long long)client->next, why);
    end_client(client);
}

static void read_answer(struct Client *client) {
    char bytes[16384];
    int descriptor = client->descriptor;
    ssize_t count = recv(descriptor, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count < 0 && would_block()) return;
    if (count <= 0) {
        was_closed(client, count ? strerror(errno) : "end");
        return;
    }
    for (ssize_t at = 0; at < count && by_descriptor[descriptor] == client; at++)
        if (!read_byte(client, bytes[at])) {
            note(&told.wrong, "%td: a byte that has no place there", client - clients);
            end_client(client);
        }
}

static void send_content(struct Client *client) {
    size_t wanted = client->to_send < BLOCK ? client->to_send : BLOCK;
    ssize_t count = send(client->descriptor, block, wanted, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count > 0) client->to_send -= count;
    // Whatever the answer is, it may be there, although no more is taken.
    if (!client->to_send || (count < 0 && !would_block())) {
        client->to_send = 0;
        watch(client->descriptor, EPOLL_CTL_MOD, EPOLLIN);
    }
}

static void has_connected(struct Client *client) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(client->descriptor, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        note(&told.failed, "connect: %s", strerror(error));
        end_client(client);
        return;
    }
    connecting--;
    watch(client->descriptor, EPOLL_CTL_MOD, kind == UPLOADS ? EPOLLIN | EPOLLOUT : EPOLLIN);
    client->due = now() + period * (client - clients) / client_count;       // their times are spread
    send_request(client);
    if (kind == UPLOADS) has_begun(client);
}

static void turn(struct Client *client, uint32_t events) {
    if (client->state == CONNECTS) {
        has_connected(client);
        return;
    }
    if (client->to_send && events & EPOLLOUT) send_content(client);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_answer(client);
}

// Sends what is due, and sets the timer for what will be.
static void send_what_is_due(void) {
    double time = now(), soonest = time + 1;
    for (int at = 0; at < opened_count; at++) {
        struct Client *client = &clients[at];
        int has_its_echo = client->state == ECHOED && !client->expected_count;
        if (client->state != IDLE && client->state != CLOSED && !has_its_echo) continue;
        if (client->due > time) {
            if (client->due < soonest) soonest = client->due;
        } else if (client->state == CLOSED) {
            client->due = time + 0.1;       // if it fails
            open_client(client);
        } else if (kind == TUNNELS) send_echo(client);
        else send_request(client);
    }
    double left = soonest - now() > 1e-6 ? soonest - now() : 1e-6;
    struct itimerspec next = {.it_value = {.tv_sec = (time_t)left, .tv_nsec = (left - (time_t)left) * 1e9}};
    timerfd_settime(timer, 0, &next, NULL);
}

static void run_clients(void) {
    struct epoll_event events[BATCH];
    char line[64];
    uint64_t expirations;
    if (!(clients = calloc(client_count, sizeof *clients))) fail("calloc");
    if ((timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) < 0) fail("timerfd_create");
    watch(timer, EPOLL_CTL_ADD, EPOLLIN);
    watch(STDIN_FILENO, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        while (opened_count < client_count && connecting < CONNECTING_MAX) open_client(&clients[opened_count++]);
        if (period > 0) send_what_is_due();
        int count = epoll_wait(poller, events, BATCH, -1);
        for (int at = 0; at < count; at++) {
            int descriptor = events[at].data.fd;
            if (descriptor == STDIN_FILENO) {
                int is_over = read(STDIN_FILENO, line, sizeof line) <= 0;
                tell();
                if (is_over) return;
            } else if (descriptor == timer) {
                if (read(timer, &expirations, sizeof expirations) < 0 && !would_block()) fail("timer");
            } else if (by_descriptor[descriptor]) turn(by_descriptor[descriptor], events[at].events);
        }
    }
}

int main(int count, char **words) {
    memset(block, 'x', sizeof block);
    if ((poller = epoll_create1(0)) < 0) fail("epoll_create1");
    const char *mode = count > 1 ? words[1] : "";
    if (count == 2 && !strcmp(mode, "origin")) serve();
    if (count > 3) {
        proxy = atoi(words[2]);
        client_count = atoi(words[3]);
    }
    if (count == 7 && !strcmp(mode, "streams")) {
        kind = STREAMS;
        events_wanted = strtoull(words[4], NULL, 10);
        low = atoi(words[5]);
        high = atoi(words[6]);
    } else if (count == 5 && (!strcmp(mode, "tunnels") || !strcmp(mode, "kept"))) {
        kind = *mode == 't' ? TUNNELS : KEPT;
        period = atof(words[4]) * 1e-6;
    } else if (count == 6 && !strcmp(mode, "uploads")) {
        kind = UPLOADS;
        upload_bytes = strtoull(words[4], NULL, 10);
        rate = strtoull(words[5], NULL, 10);
    } else {
        fprintf(stderr, "streamload: see the comment on top of streamload.c\n");
        return 64;
    }
    run_clients();
    return 0;
}
