#define _GNU_SOURCE 1
#include "CLinux.h"

#include <malloc.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>

int headfirst_accept4(int listener, struct sockaddr_storage *address, socklen_t *length) {
    return accept4(listener, (struct sockaddr *)address, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

int headfirst_bind(int socket, const struct sockaddr_storage *address, socklen_t length) {
    return bind(socket, (const struct sockaddr *)address, length);
}

int headfirst_connect(int socket, const struct sockaddr_storage *address, socklen_t length) {
    return connect(socket, (const struct sockaddr *)address, length);
}

int headfirst_getpeername(int socket, struct sockaddr_storage *address, socklen_t *length) {
    return getpeername(socket, (struct sockaddr *)address, length);
}

int headfirst_getsockname(int socket, struct sockaddr_storage *address, socklen_t *length) {
    return getsockname(socket, (struct sockaddr *)address, length);
}

int headfirst_memory_file(const char *name) { return memfd_create(name, MFD_CLOEXEC); }

int headfirst_pipe(int ends[2]) { return pipe2(ends, O_NONBLOCK | O_CLOEXEC); }

int headfirst_set_pipe_capacity(int pipe, int bytes) { return fcntl(pipe, F_SETPIPE_SZ, bytes); }

int headfirst_unacknowledged(int socket, int *bytes) { return ioctl(socket, SIOCOUTQ, bytes); }

int headfirst_make_nonblocking(int descriptor) {
    int flags = fcntl(descriptor, F_GETFL);
    if (flags < 0 || fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) != 0) return -1;
    return fcntl(descriptor, F_SETFD, FD_CLOEXEC);
}

void headfirst_trim_memory(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

int headfirst_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }

int headfirst_replace(int descriptor, int by) { return dup3(by, descriptor, O_CLOEXEC); }

int headfirst_name_thread(pthread_t thread, const char *name) { return pthread_setname_np(thread, name); }

int headfirst_affinity_count(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

int headfirst_random(void *bytes, size_t count) { return getrandom(bytes, count, 0) == (ssize_t)count ? 0 : -1; }

void headfirst_ignore_signals(void) {
    signal(SIGPIPE, SIG_IGN);
    // A log that is as large as the process may make a file is an error of a write, too.
    signal(SIGXFSZ, SIG_IGN);
}
