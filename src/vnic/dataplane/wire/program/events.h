/* What goes to control: the queue behind the channel's socket. channel.c puts replies into it; the events themselves are
 * declared in wire.h. */
#ifndef EVENTS_H
#define EVENTS_H

#include <stdbool.h>
#include <stddef.h>

struct main_watch;

/* Main thread, once: `control` is the watch of the channel's socket. 0 or an errno. */
int events_start(struct main_watch *control);

/* Any thread: one more message, of two parts. What does not fit into memory is lost. */
void events_enqueue(const void *head, size_t head_len, const void *rest, size_t rest_len);

/* Main thread: send what waits. False: something waits still. While control does not read, its requests wait, too. */
bool events_flush(void);

#endif
