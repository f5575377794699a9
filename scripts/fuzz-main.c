// Loaded before the test executable under valgrind: the main thread serves its queue and stays. Dispatch's own
// dispatch_main ends that thread and leaves the process to others, which valgrind does not survive.
#include <poll.h>
#include <stdint.h>
#include <unistd.h>

extern int _dispatch_get_main_queue_handle_4CF(void);
extern void _dispatch_main_queue_callback_4CF(void *message);

void dispatch_main(void) {
    int handle = _dispatch_get_main_queue_handle_4CF();
    for (;;) {
        struct pollfd wait = {.fd = handle, .events = POLLIN};
        uint64_t count;
        _dispatch_main_queue_callback_4CF(0);
        if (poll(&wait, 1, -1) > 0 && read(handle, &count, sizeof count) < 0) continue;
    }
}
