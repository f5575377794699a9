// What the importer of C cannot see by itself: Linux headers outside Glibc's module, macros, variadics, GNU
// extensions, and calls that need a cast of sockaddr. No logic.
#ifndef HEADFIRST_CLINUX_H
#define HEADFIRST_CLINUX_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static inline int headfirst_errno(void) { return errno; }
static inline uint64_t headfirst_microseconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}
static inline uint32_t headfirst_epollet(void) { return EPOLLET; }
static inline uint32_t headfirst_epollexclusive(void) { return EPOLLEXCLUSIVE; }

// The library's own wrappers of these are cancellation points, at about seventy instructions a call. No thread of
// ours is ever cancelled.
static inline ssize_t headfirst_receive(int socket, void *room, size_t capacity, int flags) {
    return syscall(SYS_recvfrom, socket, room, capacity, flags, NULL, NULL);
}
static inline ssize_t headfirst_send(int socket, const void *bytes, size_t count, int flags) {
    return syscall(SYS_sendto, socket, bytes, count, flags, NULL, 0);
}
static inline ssize_t headfirst_send_message(int socket, const struct msghdr *message, int flags) {
    return syscall(SYS_sendmsg, socket, message, flags);
}
static inline int headfirst_epoll_wait(int epoll, struct epoll_event *events, int max, int timeout) {
    return (int)syscall(SYS_epoll_pwait, epoll, events, max, timeout, NULL, (size_t)8);
}

static inline ssize_t headfirst_splice(int source, int destination, size_t count) {
    // SPLICE_F_MOVE | SPLICE_F_NONBLOCK
    return syscall(SYS_splice, source, NULL, destination, NULL, count, 3);
}

int headfirst_memory_file(const char *name);
int headfirst_pipe(int ends[2]);
int headfirst_set_pipe_capacity(int pipe, int bytes);
int headfirst_accept4(int listener, struct sockaddr_storage *address, socklen_t *length);
int headfirst_bind(int socket, const struct sockaddr_storage *address, socklen_t length);
int headfirst_connect(int socket, const struct sockaddr_storage *address, socklen_t length);
int headfirst_getpeername(int socket, struct sockaddr_storage *address, socklen_t *length);
int headfirst_getsockname(int socket, struct sockaddr_storage *address, socklen_t *length);
int headfirst_unacknowledged(int socket, int *bytes);
int headfirst_make_nonblocking(int descriptor);
void headfirst_trim_memory(void);
int headfirst_open(const char *path, int flags, mode_t mode);
int headfirst_replace(int descriptor, int by);
int headfirst_name_thread(pthread_t thread, const char *name);
int headfirst_affinity_count(void);
int headfirst_random(void *bytes, size_t count);
void headfirst_ignore_signals(void);

#endif
