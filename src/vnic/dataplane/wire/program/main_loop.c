/* See main_loop.h. */
#include "main_loop.h"

#include <errno.h>
#include <sys/epoll.h>

#include "wake.h"

static int epoll_fd;

int main_loop_init(void)
{
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return epoll_fd < 0 ? errno : 0;
}

int main_watch_add(struct main_watch *watch)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = watch};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, watch->fd, &event) ? errno : 0;
}

void main_watch_events(struct main_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
}

void main_watch_remove(struct main_watch *watch)
{
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, watch->fd, 0);
}

void main_loop_run(void)
{
    for (;;) {
        struct epoll_event event; /* one at a time: what it runs may free the next one's watch */
        int count = epoll_wait(epoll_fd, &event, 1, -1);
        if (count < 0)
            wake_idle(); /* the tick of wake.c */
        if (count == 1) {
            struct main_watch *watch = event.data.ptr;
            watch->ready(watch);
        }
    }
}
