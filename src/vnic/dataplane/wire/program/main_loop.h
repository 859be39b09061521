/* The main thread's epoll: the control channel, the events of the workers and the vhost-user sockets. */
#ifndef MAIN_LOOP_H
#define MAIN_LOOP_H

#include <stdint.h>

struct main_watch {
    int fd;
    void (*ready)(struct main_watch *); /* level-triggered; may remove this watch and any other */
};

int main_loop_init(void); /* 0 or an errno */
int main_watch_add(struct main_watch *watch); /* for EPOLLIN; 0 or an errno */
void main_watch_events(struct main_watch *watch, uint32_t events);
void main_watch_remove(struct main_watch *watch);
void main_loop_run(void) __attribute__((noreturn));

#endif
