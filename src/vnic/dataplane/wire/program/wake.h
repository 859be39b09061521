/* Writes to descriptors of guests that could block: O_NONBLOCK belongs to the open file, and its other owner can clear
 * it at any time. vhost_port.c interrupts through it; the threads call wake_idle. */
#ifndef WAKE_H
#define WAKE_H

#include <stdbool.h>

void wake_init(void); /* once, before the first thread */

/* What a descriptor is, to choose a call that does not block. */
enum wake_kind { WAKE_EVENTFD, WAKE_SOCKET, WAKE_PIPE };
enum wake_kind wake_kind(int fd);

/* Signal it. False: the write blocked and was interrupted; the descriptor is not to be used again. Other errors, and a
 * peer that has not read its last signals, count as done. */
bool wake_write(int fd, enum wake_kind kind);

/* Read what made a socket or pipe readable. False: its other end is closed, it failed, or it blocked. */
bool wake_drain(int fd, enum wake_kind kind);

/* The thread is idle and was woken by the tick that ends a blocked call: stop ticking. */
void wake_idle(void);

#endif
