/* Messages that wait for control to read them: events of all threads, and replies. See events.h, wire.h. */
#include "events.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "main_loop.h"
#include "wire.h"

#define LOG_TEXT_MAX 256
#define LOGS_WAITING 256u /* events of which more may come than control reads */

struct waiting {
    struct waiting *next;
    size_t len;
    uint8_t data[];
};

static pthread_mutex_t outgoing_lock = PTHREAD_MUTEX_INITIALIZER;
static struct waiting *outgoing, **outgoing_end = &outgoing;
static unsigned logs_waiting;
static int outgoing_event; /* an eventfd: something waits */
static struct main_watch *socket_watch, event_watch;

void events_enqueue(const void *head, size_t head_len, const void *rest, size_t rest_len)
{
    struct waiting *message = malloc(sizeof *message + head_len + rest_len);
    if (!message)
        return;
    message->next = NULL;
    message->len = head_len + rest_len;
    memcpy(message->data, head, head_len);
    if (rest_len)
        memcpy(message->data + head_len, rest, rest_len);
    pthread_mutex_lock(&outgoing_lock);
    *outgoing_end = message;
    outgoing_end = &message->next;
    pthread_mutex_unlock(&outgoing_lock);
    eventfd_write(outgoing_event, 1);
}

static bool is_log(const struct waiting *message)
{
    uint32_t type;
    memcpy(&type, message->data, sizeof type);
    return type == EVENT_LOG;
}

bool events_flush(void)
{
    bool full = false;
    pthread_mutex_lock(&outgoing_lock);
    while (outgoing && !full) {
        struct waiting *first = outgoing;
        if (send(socket_watch->fd, first->data, first->len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EAGAIN) {
            full = true;
        } else {
            logs_waiting -= is_log(first);
            outgoing = first->next;
            if (!outgoing)
                outgoing_end = &outgoing;
            free(first);
        }
    }
    pthread_mutex_unlock(&outgoing_lock);
    main_watch_events(socket_watch, full ? EPOLLOUT : EPOLLIN);
    return !full;
}

static void events_wait(struct main_watch *watch)
{
    eventfd_t count;
    eventfd_read(watch->fd, &count);
    events_flush();
}

void event_port_lost(struct port *port, unsigned queue, int error)
{
    if (port->lost)
        return;
    port->lost = true;
    struct event_port_lost event = {{EVENT_PORT_LOST, 0}, port->id, error, queue};
    events_enqueue(&event, sizeof event, NULL, 0);
}

void event_ring_broken(struct port *port, unsigned ring, const char *text)
{
    struct event_ring_broken event = {{EVENT_RING_BROKEN, 0}, port->id, ring};
    events_enqueue(&event, sizeof event, text, strlen(text));
}

void event_dump_failed(uint32_t dump, int error)
{
    struct event_dump_failed event = {{EVENT_DUMP_FAILED, 0}, dump, error};
    events_enqueue(&event, sizeof event, NULL, 0);
}

void event_frame_returned(struct port *port, unsigned queue, const struct net_header *hdr, const uint8_t *frame,
                          uint32_t len)
{
    struct event_frame event = {.head = {EVENT_FRAME_RETURNED, 0}, .port = port->id, .queue = queue};
    memcpy(event.hdr, hdr, sizeof event.hdr);
    events_enqueue(&event, sizeof event, frame, len);
}

void event_log(unsigned level, const char *format, ...)
{
    struct event_log event = {{EVENT_LOG, 0}, level};
    char text[LOG_TEXT_MAX];
    va_list arguments;
    pthread_mutex_lock(&outgoing_lock);
    bool room = logs_waiting < LOGS_WAITING;
    logs_waiting += room;
    pthread_mutex_unlock(&outgoing_lock);
    if (!room)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    events_enqueue(&event, sizeof event, text, strlen(text));
}

int events_start(struct main_watch *control)
{
    socket_watch = control;
    outgoing_event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (outgoing_event < 0)
        return errno;
    event_watch = (struct main_watch){outgoing_event, events_wait};
    return main_watch_add(&event_watch);
}
