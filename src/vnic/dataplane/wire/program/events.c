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
/* Events of which more may come than control reads. */
#define LOGS_WAITING 256u
#define FRAMES_WAITING (4u << 20) /* bytes */

struct waiting {
    struct waiting *next;
    size_t len;
    _Alignas(16) uint8_t data[];
};

static pthread_mutex_t outgoing_lock = PTHREAD_MUTEX_INITIALIZER;
static struct waiting *outgoing, **outgoing_end = &outgoing;
static unsigned logs_waiting;
static size_t frames_waiting; /* bytes */
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

static uint32_t type_of(const struct waiting *message)
{
    uint32_t type;
    memcpy(&type, message->data, sizeof type);
    return type;
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
            logs_waiting -= type_of(first) == EVENT_LOG;
            if (type_of(first) == EVENT_FRAME_RECEIVED)
                frames_waiting -= first->len;
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
    static uint32_t number; /* the main thread removes ports */
    struct event_frame event = {.head = {EVENT_FRAME_RETURNED, ++number}, .port = port->id, .queue = queue};
    memcpy(event.hdr, hdr, sizeof event.hdr);
    events_enqueue(&event, sizeof event, frame, len);
}

bool event_frame_received(struct port *port, const uint8_t *frame, uint32_t len)
{
    struct event_frame event = {.head = {EVENT_FRAME_RECEIVED, 0}, .port = port->id};
    pthread_mutex_lock(&outgoing_lock);
    bool room = frames_waiting + sizeof event + len <= FRAMES_WAITING;
    if (room)
        frames_waiting += sizeof event + len;
    pthread_mutex_unlock(&outgoing_lock);
    if (room)
        events_enqueue(&event, sizeof event, frame, len);
    return room;
}

/* A state of the same port that waits is replaced: what a peer sends must not fill the memory. */
void event_ccm_state(struct port *port, const struct tunnel_state *state, uint32_t silent_us)
{
    struct event_ccm_state event = {
        .head = {EVENT_CCM_STATE, 0},
        .port = port->id,
        .heard = state->heard,
        .rdi = state->rdi,
        .status = state->remote_status,
        .refused = state->refused,
        .silent_us = silent_us,
        .remote_sequence = state->remote_sequence,
    };
    struct waiting *message;
    pthread_mutex_lock(&outgoing_lock);
    for (message = outgoing; message; message = message->next) {
        struct event_ccm_state *before = (struct event_ccm_state *)(void *)message->data;
        if (type_of(message) == EVENT_CCM_STATE && before->port == port->id) {
            *before = event;
            break;
        }
    }
    pthread_mutex_unlock(&outgoing_lock);
    if (!message)
        events_enqueue(&event, sizeof event, NULL, 0);
}

void event_tunnel_trouble(struct port *port, unsigned counter)
{
    struct event_tunnel_trouble event = {{EVENT_TUNNEL_TROUBLE, 0}, port->id, counter};
    events_enqueue(&event, sizeof event, NULL, 0);
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
