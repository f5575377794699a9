// Load for tunnels, cheap enough that the proxy between is what is measured. It owns both ends of every tunnel:
//
//     tunnelload origin                                      serves on a free port of 127.0.0.1, which it prints
//     tunnelload transfer PROXY ORIGIN COUNT WAY SECONDS BYTES     WAY: down, up, both; ends at whichever is first
//     tunnelload pingpong PROXY TURNS                        64 bytes there and back
//     tunnelload hold PROXY COUNT                            sends a message through each at the input `message`,
//                                                            closes them all at its end
//
// The clients print JSON. The origin answers every Upgrade with 101 and then does what the path says: /down sends,
// /up discards, /both does both, /echo gives back. Both ends count: a transfer is complete only when every byte that
// one side wrote was read by the other. The origin tells its counts on a connection of its own (/stop, which
// also ends its sending), so that a proxy that cannot pass on half of a close is measured like the others.
//
// Bytes are written 256 KiB at a time and discarded with MSG_TRUNC, which copies nothing.
#include "load.h"
#include <netinet/tcp.h>
#include <unistd.h>

enum { BLOCK = 256 << 10, DESCRIPTORS = 1 << 16, BATCH = 64, MESSAGE = 16 << 10, FRAME_HEAD = 8, IN_FLIGHT = 500 };
enum { PATIENCE_SECONDS = 20, PHASE_SECONDS_MAX = 120 };        // for one call, for all tunnels; then SIGALRM ends us
enum Work { AWAITS_HEAD, RELAYS, ECHOES };

struct Tunnel {
    enum Work work;
    int sends;          // while set, as much is written as the socket takes
    int run;            // whose counts its bytes belong to
    char *pending;      // what of an echo was not taken yet; nothing is read meanwhile
    size_t pending_count;
};

static struct Tunnel tunnels[DESCRIPTORS];      // by descriptor
static char block[BLOCK];
static int listener = -1;
static int current_run;
static uint64_t sent, received;                 // of the current run

static void end_tunnel(int descriptor) {
    free(tunnels[descriptor].pending);
    tunnels[descriptor] = (struct Tunnel){0};
    close(descriptor);
}

static int would_block(void) { return errno == EAGAIN || errno == EINTR; }

// One read and one write at most, so that all tunnels have their turn. Gives 0 when the other side has ended.
static int relay(int descriptor, uint32_t events) {
    struct Tunnel *tunnel = &tunnels[descriptor];
    int counts = tunnel->run == current_run;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t count = recv(descriptor, NULL, 1 << 20, MSG_TRUNC | MSG_DONTWAIT);
        if (count == 0 || (count < 0 && !would_block())) return 0;
        if (count > 0 && counts) received += count;
    }
    if (events & EPOLLOUT && tunnel->sends) {
        ssize_t count = send(descriptor, block, BLOCK, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0 && !would_block()) return 0;
        if (count > 0 && counts) sent += count;
    }
    return 1;
}

// The origin.

static int echo(int descriptor) {
    struct Tunnel *tunnel = &tunnels[descriptor];
    int was_pending = tunnel->pending != NULL;
    char *bytes = was_pending ? tunnel->pending : block;
    ssize_t count = tunnel->pending_count;
    if (!was_pending) {
        count = recv(descriptor, block, BLOCK, MSG_DONTWAIT);
        if (count <= 0) return count < 0 && would_block();
    }
    ssize_t taken = send(descriptor, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (taken < 0) {
        if (!would_block()) return 0;
        taken = 0;
    }
    tunnel->pending_count = count - taken;
    if (!tunnel->pending_count) {
        free(tunnel->pending);
        tunnel->pending = NULL;
    } else if (was_pending) {
        memmove(tunnel->pending, tunnel->pending + taken, tunnel->pending_count);
    } else {
        if (!(tunnel->pending = malloc(tunnel->pending_count))) fail("malloc");
        memcpy(tunnel->pending, block + taken, tunnel->pending_count);
    }
    if (was_pending != (tunnel->pending != NULL))
        watch(descriptor, EPOLL_CTL_MOD, tunnel->pending ? EPOLLOUT : EPOLLIN);
    return 1;
}

static int has_path(const char *head, const char *path) { return !strncmp(head + strlen("GET "), path, strlen(path)); }

static int stop(int descriptor) {
    char answer[64];
    for (int other = 0; other < DESCRIPTORS; other++)
        if (tunnels[other].sends) {
            tunnels[other].sends = 0;
            watch(other, EPOLL_CTL_MOD, EPOLLIN);
        }
    int length = snprintf(answer, sizeof answer, "%llu %llu\n", (unsigned long long)received, (unsigned long long)sent);
    send(descriptor, answer, length, MSG_NOSIGNAL);
    return 0;
}

// Takes the request's head off the socket once it is whole; what follows it stays there.
static int answer_head(int descriptor) {
    // The key and the answer to it are the example of RFC 6455, section 1.3.
    static const char switching[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    struct Tunnel *tunnel = &tunnels[descriptor];
    char head[4096];
    ssize_t count = recv(descriptor, head, sizeof head - 1, MSG_PEEK | MSG_DONTWAIT);
    if (count <= 0) return count < 0 && would_block();
    head[count] = 0;
    char *end = strstr(head, "\r\n\r\n");
    if (!end) return count < (ssize_t)sizeof head - 1;
    recv(descriptor, head, end + 4 - head, 0);
    if (has_path(head, "/stop")) return stop(descriptor);
    char *run = strstr(head, "run=");
    if (run && (tunnel->run = atoi(run + 4)) != current_run) {
        current_run = tunnel->run;
        sent = received = 0;
    }
    tunnel->work = has_path(head, "/echo") ? ECHOES : RELAYS;
    tunnel->sends = has_path(head, "/down") || has_path(head, "/both");
    if (send(descriptor, switching, sizeof switching - 1, MSG_NOSIGNAL) < 0) return 0;
    if (tunnel->sends) watch(descriptor, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    return 1;
}

static void accept_all(void) {
    int descriptor, on = 1;
    while ((descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (descriptor >= DESCRIPTORS) fail("more descriptors than there is room for");
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(descriptor, EPOLL_CTL_ADD, EPOLLIN);
    }
    if (!would_block() && errno != ECONNABORTED) fail("accept");
}

static void serve(void) {
    struct sockaddr_in address = loopback(0, 1);
    socklen_t length = sizeof address;
    struct epoll_event events[BATCH];
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (void *)&address, length) || listen(listener, 4096)) fail("listen");
    getsockname(listener, (void *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        int count = epoll_wait(poller, events, BATCH, -1);
        for (int at = 0; at < count; at++) {
            int descriptor = events[at].data.fd, lives = 1;
            if (descriptor == listener) {
                accept_all();
                continue;
            }
            switch (tunnels[descriptor].work) {
            case AWAITS_HEAD: lives = answer_head(descriptor); break;
            case RELAYS: lives = relay(descriptor, events[at].events); break;
            case ECHOES: lives = echo(descriptor); break;
            }
            if (!lives) end_tunnel(descriptor);
        }
    }
}

// The clients.

static int connect_to(int port) {
    struct sockaddr_in address = loopback(port, 1);
    struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    int descriptor = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (descriptor < 0 || connect(descriptor, (void *)&address, sizeof address)) fail("connect");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return descriptor;
}

static int open_tunnel(int port, const char *path, int run) {
    char head[1024];
    int descriptor = connect_to(port);
    int length = snprintf(head, sizeof head,
                          "GET /%s?run=%d HTTP/1.1\r\nHost: tunnel.example\r\n"
                          "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                          path, run);
    if (send(descriptor, head, length, MSG_NOSIGNAL) != length) fail("send");
    // One byte at a time: what follows the head belongs to the tunnel.
    for (length = 0; length < 4 || memcmp(head + length - 4, "\r\n\r\n", 4); length++)
        if (length == sizeof head || recv(descriptor, head + length, 1, 0) != 1) fail("no head of a 101");
    if (memcmp(head, "HTTP/1.1 101 ", 13)) {
        fprintf(stderr, "tunnelload: refused: %.*s\n", length, head);
        exit(1);
    }
    return descriptor;
}

// Ends the origin's sending; tells what it has received and sent in this run.
static void stop_origin(int port, uint64_t *origin_received, uint64_t *origin_sent) {
    char answer[64] = "";
    unsigned long long first, second;
    int descriptor = connect_to(port);
    send(descriptor, "GET /stop HTTP/1.1\r\n\r\n", 22, MSG_NOSIGNAL);
    ssize_t count = recv(descriptor, answer, sizeof answer - 1, MSG_WAITALL);
    if (count <= 0 || sscanf(answer, "%llu %llu", &first, &second) != 2) fail("the origin does not tell its counts");
    close(descriptor);
    *origin_received = first;
    *origin_sent = second;
}

static int relay_once(int timeout_milliseconds) {
    struct epoll_event events[BATCH];
    int count = epoll_wait(poller, events, BATCH, timeout_milliseconds), ended = 0;
    for (int at = 0; at < count; at++)
        if (!relay(events[at].data.fd, events[at].events)) {
            epoll_ctl(poller, EPOLL_CTL_DEL, events[at].data.fd, NULL);
            ended++;
        }
    return ended;
}

static void transfer(int proxy, int origin, int count, const char *way, double seconds, uint64_t bytes) {
    int descriptors[BATCH], sends = strcmp(way, "down") != 0, ended = 0;
    uint64_t origin_received = 0, origin_sent = 0;
    current_run = getpid();
    if (count > BATCH) fail("so many tunnels");
    for (int at = 0; at < count; at++) {
        int descriptor = descriptors[at] = open_tunnel(proxy, way, current_run);
        tunnels[descriptor] = (struct Tunnel){.work = RELAYS, .sends = sends, .run = current_run};
        watch(descriptor, EPOLL_CTL_ADD, sends ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
    double started = now(), finish = started + seconds;
    while (now() < finish && sent + received < bytes && !ended) ended += relay_once(100);
    for (int at = 0; at < count && !ended; at++) {
        tunnels[descriptors[at]].sends = 0;
        watch(descriptors[at], EPOLL_CTL_MOD, EPOLLIN);
    }
    // What is on the way arrives: each side has what the other wrote, or something was lost.
    stop_origin(origin, &origin_received, &origin_sent);
    for (finish = now() + 10; now() < finish && !ended && (received != origin_sent || sent != origin_received);) {
        ended += relay_once(2);
        if (received == origin_sent) stop_origin(origin, &origin_received, &origin_sent);
    }
    double took = now() - started;
    if (sent != origin_received) stop_origin(origin, &origin_received, &origin_sent);
    printf("{\"seconds\": %.6f, \"down\": %llu, \"down_sent\": %llu, \"up\": %llu, \"up_sent\": %llu, \"ended\": %d}\n",
           took, (unsigned long long)received, (unsigned long long)origin_sent,
           (unsigned long long)origin_received, (unsigned long long)sent, ended);
}

static int compare(const void *one, const void *other) {
    double left = *(const double *)one, right = *(const double *)other;
    return (left > right) - (left < right);
}

static void pingpong(int proxy, int turns) {
    char ping[64], pong[64];
    double *took = calloc(turns, sizeof *took);
    int descriptor = open_tunnel(proxy, "echo", getpid());
    for (int turn = -turns / 20; turn < turns; turn++) {        // the first ones warm up and do not count
        memset(ping, turn, sizeof ping);
        double started = now();
        if (send(descriptor, ping, sizeof ping, MSG_NOSIGNAL) != sizeof ping) fail("send");
        if (recv(descriptor, pong, sizeof pong, MSG_WAITALL) != sizeof pong) fail("no echo");
        if (turn >= 0) took[turn] = now() - started;
        if (memcmp(ping, pong, sizeof ping)) fail("another echo");
    }
    qsort(took, turns, sizeof *took, compare);
    printf("{\"median\": %.2f, \"p99\": %.2f}\n", took[turns / 2] * 1e6, took[(int)(turns * 0.99)] * 1e6);
    free(took);
}

// RFC 6455, section 5.2: a final binary frame of 16 KiB, masked, as a client must. Another key and other content for
// each tunnel, so that bytes in the wrong one are noticed.
static void make_frame(unsigned char *frame, uint32_t index) {
    unsigned char key[4] = {index >> 24, index >> 16, index >> 8, index ^ 0x5a};
    memcpy(frame, (unsigned char[]){0x82, 0x80 | 126, MESSAGE >> 8, MESSAGE & 0xff}, 4);
    memcpy(frame + 4, key, 4);
    for (uint32_t at = 0; at < MESSAGE; at++) frame[FRAME_HEAD + at] = (at * 31 + index * 7) ^ key[at % 4];
}

static void hold(int proxy, int count) {
    static unsigned char frame[FRAME_HEAD + MESSAGE], back[sizeof frame];
    int *descriptors = calloc(count, sizeof *descriptors);
    char line[32];
    alarm(PHASE_SECONDS_MAX);
    for (int at = 0; at < count; at++) descriptors[at] = open_tunnel(proxy, "echo", getpid());
    printf("{\"open\": %d}\n", count);
    fflush(stdout);
    alarm(0);
    while (fgets(line, sizeof line, stdin) && !strncmp(line, "message", 7)) {
        int whole = 0;
        double started = now();
        alarm(PHASE_SECONDS_MAX);
        for (int first = 0; first < count; first += IN_FLIGHT) {
            int last = first + IN_FLIGHT < count ? first + IN_FLIGHT : count;
            for (int at = first; at < last; at++) {
                make_frame(frame, at);
                send(descriptors[at], frame, sizeof frame, MSG_NOSIGNAL);
            }
            for (int at = first; at < last; at++) {
                make_frame(frame, at);
                ssize_t found = recv(descriptors[at], back, sizeof back, MSG_WAITALL);
                whole += found == sizeof back && !memcmp(frame, back, sizeof back);
            }
        }
        printf("{\"whole\": %d, \"seconds\": %.3f}\n", whole, now() - started);
        fflush(stdout);
        alarm(0);
    }
    for (int at = 0; at < count; at++) close(descriptors[at]);
    free(descriptors);
}

int main(int count, char **words) {
    memset(block, 'x', sizeof block);
    if ((poller = epoll_create1(0)) < 0) fail("epoll_create1");
    if (count == 2 && !strcmp(words[1], "origin")) serve();
    else if (count == 8 && !strcmp(words[1], "transfer"))
        transfer(atoi(words[2]), atoi(words[3]), atoi(words[4]), words[5], atof(words[6]),
                 strtoull(words[7], NULL, 10));
    else if (count == 4 && !strcmp(words[1], "pingpong")) pingpong(atoi(words[2]), atoi(words[3]));
    else if (count == 4 && !strcmp(words[1], "hold")) hold(atoi(words[2]), atoi(words[3]));
    else {
        fprintf(stderr, "tunnelload: see the comment on top of tunnelload.c\n");
        return 64;
    }
    return 0;
}
