// A client of TLS for measures: handshakes, full or resumed, requests on kept connections, many connections held, and
// handshakes that go wrong. One thread, epoll, libssl. Every figure is of what really happened: a handshake counts when
// SSL_session_reused says what was asked for and, in TLS 1.3, a ticket shows that the server has finished, too.
//
//     tlsload handshakes PORT CONNECTIONS SECONDS 1.2|1.3 full|resumed   handshake, close, again
//     tlsload requests   PORT CONNECTIONS SECONDS 1.2|1.3 PATH           requests on kept connections
//     tlsload exchanges  PORT CONNECTIONS SECONDS 1.2|1.3 PATH           handshake, one request, close, again
//     tlsload hold       PORT COUNT 1.2|1.3 PATH                         one request each; kept until stdin ends
//     tlsload churn      PORT CONNECTIONS COUNT 1.2|1.3 PATH             good handshakes and aborted ones mixed
//
// Prints one line of JSON. SECONDS 0: until stdin ends. A failure is counted and the first one told.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum mode { HANDSHAKES, REQUESTS, EXCHANGES, HOLD, CHURN };
enum state { CONNECTING, SHAKING, WAITING_TICKET, ASKING, KEPT, CLOSED };
// What churn does with a connection; the first ones are good.
enum kind { GOOD_ASK, GOOD_CLOSE, GOOD_ABRUPT, CUT_RESET, CUT_END, CUT_FLIGHT, GARBAGE, KINDS };

struct connection {
    int socket, index;
    enum state state;
    enum kind kind;
    SSL *ssl;
    SSL_SESSION *session;                   // the newest ticket of this place, for its next connection
    int has_ticket, resumes, wants_write;
    char head[8192];
    int head_length, head_done;
    long long content_left;
};

static struct connection *connections;
static SSL_CTX *context;
static enum mode mode;
static int port, resumed_wanted, tls13, epoll_fd, stopping, open_count;
static long long started_count, wanted_count, handshakes, reused, requests, bytes, failures, aborted;
static char request[512], first_failure[256], negotiated[128];
static char scratch[1 << 18];

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static int may_begin_another(void) {
    if (stopping) return 0;
    return mode == HOLD || mode == CHURN ? started_count < wanted_count : 1;
}

// Ends a connection; the loop begins the next one in its place.
static void finished(struct connection *c, int by_reset) {
    if (by_reset) {
        struct linger now_ = {1, 0};
        setsockopt(c->socket, SOL_SOCKET, SO_LINGER, &now_, sizeof now_);
    }
    // Without it OpenSSL takes the session for a bad one.
    if (c->ssl) SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(c->ssl);
    c->ssl = NULL;
    close(c->socket);
    c->state = CLOSED;
    open_count--;
}

static void failed(struct connection *c, const char *where) {
    failures++;
    if (!first_failure[0]) {
        unsigned long code = ERR_peek_error();
        snprintf(first_failure, sizeof first_failure, "%s: %s", where,
                 code ? ERR_reason_error_string(code) : errno ? strerror(errno) : "closed");
    }
    ERR_clear_error();
    finished(c, 1);
}

static int ticket_came(SSL *ssl, SSL_SESSION *session) {
    struct connection *c = SSL_get_app_data(ssl);
    SSL_SESSION_free(c->session);
    c->session = session;
    c->has_ticket = 1;
    return 1;                               // the reference is ours now
}

static void interest(struct connection *c, int write) {
    if (c->wants_write == write) return;
    c->wants_write = write;
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->socket, &event);
}

static void open_connection(struct connection *c) {
    SSL_SESSION *session = c->session;
    int index = c->index;
    memset(c, 0, offsetof(struct connection, head));
    c->session = session;
    c->index = index;
    c->head_length = c->head_done = 0;
    c->kind = mode == CHURN ? (enum kind)(started_count % KINDS) : GOOD_ASK;
    started_count++;
    open_count++;
    c->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->socket < 0) die("socket");
    int on = 1;
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    // Many addresses, so that ports in TIME_WAIT do not run out.
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + index % 200)};
    if (bind(c->socket, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    if (connect(c->socket, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) die("connect");
    c->ssl = SSL_new(context);
    SSL_set_app_data(c->ssl, c);
    SSL_set_fd(c->ssl, c->socket);
    SSL_set_connect_state(c->ssl);
    if (resumed_wanted && c->session) c->resumes = SSL_set_session(c->ssl, c->session);
    c->state = CONNECTING;
    c->wants_write = 1;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->socket, &event) < 0) die("epoll_ctl");
}

// What churn does in place of a handshake: 1 if it was done.
static int misbehaved(struct connection *c) {
    if (c->kind < CUT_RESET) return 0;
    if (c->kind == GARBAGE) {
        for (int at = 0; at < 300; at++) scratch[at] = rand();
        if (c->index % 2) memcpy(scratch, "\x16\x03\x01\x01\x20", 5);        // a record's beginning, then nonsense
        (void)!write(c->socket, scratch, 300);
    } else {
        BIO *memory = BIO_new(BIO_s_mem()), *empty = BIO_new(BIO_s_mem());
        SSL_set_bio(c->ssl, empty, memory);
        SSL_do_handshake(c->ssl);
        char *hello;
        long length = BIO_get_mem_data(memory, &hello);
        // Cut somewhere, or whole: then the server's flight comes, and nobody answers it.
        (void)!write(c->socket, hello, c->kind == CUT_FLIGHT ? length : 1 + rand() % (length - 1));
        struct pollfd wait = {c->socket, POLLIN, 0};
        if (c->kind == CUT_FLIGHT && poll(&wait, 1, 5000) != 1) die("no flight of the server");
    }
    ERR_clear_error();
    aborted++;
    finished(c, c->kind != CUT_END);
    return 1;
}

static void ask(struct connection *c) {
    c->head_length = c->head_done = 0;
    c->state = ASKING;
    // A request is smaller than any socket's buffer.
    if (SSL_write(c->ssl, request, strlen(request)) <= 0) failed(c, "request");
}

static void established(struct connection *c) {
    if (c->resumes && !SSL_session_reused(c->ssl)) {
        errno = 0;
        failed(c, "not resumed");
        return;
    }
    handshakes++;
    reused += SSL_session_reused(c->ssl);
    if (!negotiated[0]) {
        EVP_PKEY *key = SSL_get_peer_tmp_key(c->ssl, &key) == 1 ? key : NULL;
        snprintf(negotiated, sizeof negotiated, "%s %s %s", SSL_get_version(c->ssl), SSL_get_cipher(c->ssl),
                 key ? EVP_PKEY_get0_type_name(key) : "");
        EVP_PKEY_free(key);
    }
    if (mode == HANDSHAKES || c->kind == GOOD_CLOSE || c->kind == GOOD_ABRUPT) {
        c->state = WAITING_TICKET;
    } else {
        ask(c);
    }
}

static void answered(struct connection *c) {
    requests++;
    if (mode == REQUESTS && !stopping) {
        ask(c);
    } else if (mode == HOLD) {
        c->state = KEPT;
    } else {
        SSL_shutdown(c->ssl);
        finished(c, 0);
    }
}

// The bytes of an answer: a head with Content-Length, then its content.
static void received(struct connection *c, const char *data, long long count) {
    bytes += count;
    if (!c->head_done) {
        long long room = (long long)sizeof c->head - 1 - c->head_length, part = count < room ? count : room;
        memcpy(c->head + c->head_length, data, part);
        c->head_length += part;
        c->head[c->head_length] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return;
        char *length = strcasestr(c->head, "\r\nContent-Length:");
        if (strncmp(c->head, "HTTP/1.1 200", 12) != 0 || !length || length > end) {
            errno = 0;
            failed(c, "not a 200 with Content-Length");
            return;
        }
        c->head_done = 1;
        c->content_left = atoll(length + 17);
        count -= end + 4 - c->head - (c->head_length - part);
    }
    c->content_left -= count;
    if (c->content_left < 0) {
        errno = 0;
        failed(c, "more than Content-Length");
    } else if (c->content_left == 0) {
        answered(c);
    }
}

static void advance(struct connection *c) {
    errno = 0;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->socket, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            errno = error;
            failed(c, "connect");
            return;
        }
        if (misbehaved(c)) return;
        c->state = SHAKING;
    }
    if (c->state == SHAKING) {
        int result = SSL_do_handshake(c->ssl);
        if (result != 1) {
            int why = SSL_get_error(c->ssl, result);
            if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) failed(c, "handshake");
            else interest(c, why == SSL_ERROR_WANT_WRITE);
            return;
        }
        interest(c, 0);
        established(c);
    }
    while (c->state == WAITING_TICKET || c->state == ASKING || c->state == KEPT) {
        if (c->state == WAITING_TICKET && (c->has_ticket || !tls13)) {
            if (c->kind != GOOD_ABRUPT) SSL_shutdown(c->ssl);
            finished(c, c->kind == GOOD_ABRUPT);
            return;
        }
        int count = SSL_read(c->ssl, scratch, sizeof scratch);
        if (count <= 0) {
            if (c->state == WAITING_TICKET && c->has_ticket) continue;
            int why = SSL_get_error(c->ssl, count);
            if (why != SSL_ERROR_WANT_READ) failed(c, c->state == KEPT ? "while kept" : "answer");
            return;
        }
        if (c->state != ASKING) {
            errno = 0;
            failed(c, "bytes that nobody asked for");
            return;
        }
        received(c, scratch, count);
    }
}

static int stdin_ended(void) {
    struct pollfd wait = {0, POLLIN, 0};
    return poll(&wait, 1, 0) == 1 && read(0, scratch, sizeof scratch) <= 0;
}

static void make_context(const char *version) {
    context = SSL_CTX_new(TLS_client_method());
    tls13 = strcmp(version, "1.3") == 0;
    int number = tls13 ? TLS1_3_VERSION : TLS1_2_VERSION;
    SSL_CTX_set_min_proto_version(context, number);
    SSL_CTX_set_max_proto_version(context, number);
    // The client decides, so that no server has an easier choice than another.
    SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256");
    SSL_CTX_set_cipher_list(context, "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256");
    SSL_CTX_set1_groups_list(context, "X25519:P-256");         // TLS 1.2 wants the curve of an ECDSA key there
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, ticket_came);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
}

int main(int argc, char **argv) {
    static const char *names[] = {"handshakes", "requests", "exchanges", "hold", "churn"};
    if (argc < 6) return fprintf(stderr, "too few words; see the head of tlsload.c\n"), 64;
    for (mode = HANDSHAKES; mode <= CHURN && strcmp(argv[1], names[mode]); mode++) {}
    if (mode > CHURN) return fprintf(stderr, "no mode %s\n", argv[1]), 64;
    signal(SIGPIPE, SIG_IGN);
    port = atoi(argv[2]);
    int places = atoi(argv[3]);
    int word = mode == HOLD ? 4 : 5;        // the version
    if (argc < word + 2) return fprintf(stderr, "too few words; see the head of tlsload.c\n"), 64;
    double seconds = mode == HOLD || mode == CHURN ? 0 : atof(argv[4]);
    wanted_count = mode == HOLD ? places : mode == CHURN ? atoll(argv[4]) : 0;
    make_context(argv[word]);
    resumed_wanted = mode == HANDSHAKES && strcmp(argv[word + 1], "resumed") == 0;
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", argv[word + 1]);
    connections = calloc(places, sizeof *connections);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    double start = now(), last_look = start, moved_at = start;
    long long moved = 0;
    int is_told = 0, next = 0;
    struct epoll_event events[256];
    for (int index = 0; index < places; index++) {
        connections[index].index = index;
        connections[index].state = CLOSED;
    }
    if (mode != HOLD)
        for (next = 0; next < places && may_begin_another(); next++) open_connection(&connections[next]);
    for (;;) {
        // Held ones are begun a few at a time.
        while (mode == HOLD && next < places && open_count - requests < 64) open_connection(&connections[next++]);
        int count = epoll_wait(epoll_fd, events, 256, 50);
        for (int at = 0; at < count; at++) {
            struct connection *c = events[at].data.ptr;
            if (c->state != CLOSED) advance(c);
            if (c->state == CLOSED && mode != HOLD && may_begin_another()) open_connection(c);
        }
        double at = now();
        if (at - last_look > 0.02) {
            last_look = at;
            if (seconds > 0 ? at - start >= seconds : mode != CHURN && stdin_ended()) stopping = 1;
            if (handshakes + bytes + aborted + failures != moved) {
                moved = handshakes + bytes + aborted + failures;
                moved_at = at;
            }
            // Who hangs is told of, too.
            if (open_count > 0 && at - moved_at > 20 && !(mode == HOLD && requests == open_count)) {
                failures += open_count;
                snprintf(first_failure, sizeof first_failure, "nothing moved for 20 s");
                break;
            }
        }
        if (mode == HOLD && !is_told && requests + failures >= wanted_count) {
            is_told = 1;
            printf("{\"open\": %d, \"failures\": %lld, \"negotiated\": \"%s\"}\n", open_count, failures, negotiated);
            fflush(stdout);
        }
        if (stopping && mode == HOLD) break;
        if (stopping && (mode == HANDSHAKES || at - start > seconds + 10)) break;   // the last ones do not count
        if (open_count == 0 && !may_begin_another()) break;
    }
    printf("{\"handshakes\": %lld, \"reused\": %lld, \"aborted\": %lld, \"requests\": %lld, \"bytes\": %lld, "
           "\"failures\": %lld, \"first_failure\": \"%s\", \"negotiated\": \"%s\", \"seconds\": %.3f}\n",
           handshakes, reused, aborted, requests, bytes, failures, first_failure, negotiated, now() - start);
    return 0;
}
