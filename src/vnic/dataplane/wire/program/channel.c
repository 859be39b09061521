/* Requests of control: each is checked against its bounds, obeyed, and answered in order. See channel.h, protocol.h. */
#include "channel.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "main_loop.h"
#include "memory.h"
#include "sandbox.h"
#include "table.h"
#include "vhost_port.h"
#include "worker.h"

#pragma GCC diagnostic ignored "-Wsign-compare" /* musl's CMSG_NXTHDR */

#define TEXT_MAX 256
#define LOGS_WAITING 256u /* events of which more may come than control reads */

/* -- messages to control -------------------------------------------------------------------------------------- */

struct waiting {
    struct waiting *next;
    size_t len;
    uint8_t data[];
};

static pthread_mutex_t outgoing_lock = PTHREAD_MUTEX_INITIALIZER;
static struct waiting *outgoing, **outgoing_end = &outgoing;
static unsigned logs_waiting;
static int outgoing_event; /* an eventfd: something waits */
static struct main_watch socket_watch, event_watch;

/* Events and replies that could not be sent; any thread. What does not fit into memory is lost. */
static void enqueue(const void *head, size_t head_len, const void *rest, size_t rest_len)
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

/* Send what waits. False: something waits still. While control does not read, its requests wait, too. */
static bool flush(void)
{
    bool full = false;
    pthread_mutex_lock(&outgoing_lock);
    while (outgoing && !full) {
        struct waiting *first = outgoing;
        if (send(socket_watch.fd, first->data, first->len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EAGAIN) {
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
    main_watch_events(&socket_watch, full ? EPOLLOUT : EPOLLIN);
    return !full;
}

static void events_wait(struct main_watch *watch)
{
    eventfd_t count;
    eventfd_read(watch->fd, &count);
    flush();
}

void event_port_lost(struct port *port, unsigned queue, int error)
{
    if (port->lost)
        return;
    port->lost = true;
    struct event_port_lost event = {{EVENT_PORT_LOST, 0}, port->id, error, queue};
    enqueue(&event, sizeof event, NULL, 0);
}

void event_ring_broken(struct port *port, unsigned ring, const char *text)
{
    struct event_ring_broken event = {{EVENT_RING_BROKEN, 0}, port->id, ring};
    enqueue(&event, sizeof event, text, strlen(text));
}

void event_dump_failed(uint32_t dump, int error)
{
    struct event_dump_failed event = {{EVENT_DUMP_FAILED, 0}, dump, error};
    enqueue(&event, sizeof event, NULL, 0);
}

void event_frame_returned(struct port *port, unsigned queue, const struct net_header *hdr, const uint8_t *frame,
                          uint32_t len)
{
    struct event_frame_returned event = {.head = {EVENT_FRAME_RETURNED, 0}, .port = port->id, .queue = queue};
    memcpy(event.hdr, hdr, sizeof event.hdr);
    enqueue(&event, sizeof event, frame, len);
}

void event_log(unsigned level, const char *format, ...)
{
    struct event_log event = {{EVENT_LOG, 0}, level};
    char text[TEXT_MAX];
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
    enqueue(&event, sizeof event, text, strlen(text));
}

/* -- requests ------------------------------------------------------------------------------------------------- */

/* A request as it came, and its reply as it grows. */
struct call {
    union {
        const uint8_t *bytes;
        const struct message_head *head;
        const struct message_hello *hello;
        const struct message_port_add *port_add;
        const struct message_port_remove *port_remove;
        const struct message_wire_set *wire_set;
        const struct message_filter *filter;
        const struct message_dump *dump;
        const struct message_inject *inject;
        const struct message_stats *stats;
        const struct message_queues *queues;
    };
    size_t len;
    int *fds; /* set to -1 where they are taken */
    unsigned fd_count;
    uint8_t *data; /* of the reply */
    size_t data_len;
    char text[TEXT_MAX];
};

static bool greeted;
static uint32_t capabilities;

static int refuse(struct call *call, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int refuse(struct call *call, int error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(call->text, sizeof call->text, format, arguments);
    va_end(arguments);
    return error;
}

static struct port *named(struct call *call, uint32_t id, int *error)
{
    struct port *port = port_find(id);
    if (!port)
        *error = refuse(call, ENOENT, "port: there is no port %u", id);
    return port;
}

static int hello(struct call *call)
{
    const struct message_hello *body = call->hello;
    if (body->version != PROTOCOL_VERSION)
        return refuse(call, EPROTONOSUPPORT, "version: %u, this is %u", body->version, PROTOCOL_VERSION);
    if (greeted)
        return refuse(call, EALREADY, "version: said before");
    if (!body->workers || body->workers > WORKERS_MAX)
        return refuse(call, EINVAL, "workers: %u", body->workers);
    if (body->spin_us > SPIN_MAX_US)
        return refuse(call, EINVAL, "spin_us: %u", body->spin_us);
    int error = workers_start(body->workers, body->spin_us);
    if (error)
        return refuse(call, error, "workers: %s", strerror(error));
#ifndef NO_SANDBOX
    capabilities |= sandbox_seal(); /* all threads are there, and nothing but the hello was read yet */
#endif
    greeted = true;
    struct hello_reply reply = {PROTOCOL_VERSION, (uint32_t)getpid(), capabilities};
    memcpy(call->data, &reply, sizeof reply);
    call->data_len = sizeof reply;
    return 0;
}

static const struct port_ops *ops_of(uint32_t kind)
{
    switch (kind) {
    case PORT_VHOST:
        return &vhost_port_ops;
    case PORT_TAP:
        return &tap_port_ops;
    case PORT_STREAM:
        return &stream_port_ops;
    case PORT_DATAGRAM:
        return &datagram_port_ops;
    case PORT_PACKET:
        return &packet_port_ops;
    default:
        return NULL;
    }
}

static int port_add(struct call *call)
{
    const struct message_port_add *body = call->port_add;
    const struct port_ops *ops = ops_of(body->kind);
    uint64_t len = sizeof *body + (uint64_t)body->dest_len + body->own_len;
    if (len != call->len)
        return refuse(call, EINVAL, "length: %zu bytes for parts that make %llu", call->len, (unsigned long long)len);
    if (body->port >= PORTS_MAX)
        return refuse(call, EINVAL, "port: %u", body->port);
    if (port_find(body->port))
        return refuse(call, EEXIST, "port: %u is there", body->port);
    if (!ops)
        return refuse(call, EINVAL, "kind: %u", body->kind);
    if (!body->queues || body->queues > QUEUES_MAX)
        return refuse(call, EINVAL, "queues: %u", body->queues);
    if (body->flags & ~(uint32_t)(PORT_VNET_HDR | PORT_MULTICAST_OWN | PORT_OFFLOAD))
        return refuse(call, EINVAL, "flags: %#x", body->flags);
    if (body->max_frame < FRAME_MIN || body->max_frame > FRAME_MAX)
        return refuse(call, EINVAL, "max_frame: %u", body->max_frame);
    struct port *port = port_make(body->port, ops, body->queues);
    if (!port)
        return refuse(call, errno, "port: %s", strerror(errno));
    port->kind = body->kind;
    port->flags = body->flags;
    port->max_frame = body->max_frame;
    port->active = body->queues;
    const uint8_t *rest = call->bytes + sizeof *body;
    struct port_request request = {.body = body, .fds = call->fds, .fd_count = call->fd_count};
    request.dest = rest;
    request.own = request.dest + body->dest_len;
    struct worker *worker = port->worker;
    worker_lock(worker);
    int error = ops->add(port, &request, call->text, sizeof call->text);
    if (!error)
        port_enter(port);
    worker_unlock(worker);
    if (error) {
        port_free(port);
        return error;
    }
    for (unsigned i = 0; i < call->fd_count; i++)
        call->fds[i] = -1;
    return 0;
}

static int port_remove(struct call *call)
{
    int error = 0;
    struct port *port = named(call, call->port_remove->port, &error);
    if (!port)
        return error;
    struct worker *worker = port->worker;
    worker_lock(worker);
    wire_leave(port);
    worker_remove_port(port);
    dump_remove_all(port);
    port->ops->remove(port);
    port_free(port);
    worker_unlock(worker);
    memory_unmap_discarded();
    return 0;
}

static int wire_request(struct call *call)
{
    const struct message_wire_set *body = call->wire_set;
    static struct port *members[WIRE_PORTS_MAX];
    if (body->wire >= WIRES_MAX)
        return refuse(call, EINVAL, "wire: %u", body->wire);
    if (body->n > WIRE_PORTS_MAX || call->len != sizeof *body + 4 * (size_t)body->n)
        return refuse(call, EINVAL, "n: %u ports in %zu bytes", body->n, call->len);
    int error = 0;
    for (uint32_t i = 0; i < body->n && !error; i++) {
        members[i] = named(call, body->ports[i], &error);
        for (uint32_t k = 0; k < i && !error; k++)
            if (members[k] == members[i])
                error = refuse(call, EINVAL, "ports: %u is named twice", body->ports[i]);
    }
    if (error)
        return error;
    workers_lock();
    error = wire_set(body->wire, members, body->n);
    workers_unlock();
    return error ? refuse(call, error, "wire: %s", strerror(error)) : 0;
}

static int filter(struct call *call)
{
    const struct message_filter *body = call->filter;
    int error = 0;
    struct port *port = named(call, body->port, &error);
    if (!port)
        return error;
    if (port->kind != PORT_VHOST)
        return refuse(call, EINVAL, "port: %u has no receive filter", port->id);
    unsigned macs = (unsigned)body->unicast + body->multicast;
    if (macs > FILTER_MACS_MAX)
        return refuse(call, EINVAL, "unicast: %u addresses, the most is %u", macs, FILTER_MACS_MAX);
    if (call->len != sizeof *body + 6 * (size_t)macs + FILTER_VLAN_BYTES)
        return refuse(call, EINVAL, "length: %zu bytes for %u addresses", call->len, macs);
    struct filter copy = {
        .bits = body->bits, .overflow = body->overflow, .unicast = body->unicast, .multicast = body->multicast};
    memcpy(copy.mac, body->mac, 6);
    memcpy(copy.macs, call->bytes + sizeof *body, 6 * (size_t)macs);
    memcpy(copy.vlans, call->bytes + sizeof *body + 6 * (size_t)macs, FILTER_VLAN_BYTES);
    struct worker *worker = port->worker;
    worker_lock(worker);
    error = vhost_set_filter(port, body->bits & FILTER_ENABLED ? &copy : NULL);
    worker_unlock(worker);
    return error ? refuse(call, error, "filter: %s", strerror(error)) : 0;
}

static int dump(struct call *call)
{
    const struct message_dump *body = call->dump;
    int error = 0;
    struct port *port = named(call, body->port, &error);
    if (!port)
        return error;
    if (body->direction > DUMP_ALL)
        return refuse(call, EINVAL, "direction: %u", body->direction);
    if (call->fd_count != (body->direction != DUMP_REMOVE))
        return refuse(call, EINVAL, "fds: %u", call->fd_count);
    struct worker *worker = port->worker;
    worker_lock(worker);
    if (body->direction == DUMP_REMOVE)
        error = dump_remove(port, body->dump);
    else
        error = dump_add(port, body->dump, body->snaplen, body->direction, call->fds[0]);
    worker_unlock(worker);
    if (error)
        return refuse(call, error, "dump: %s", strerror(error));
    if (call->fd_count)
        call->fds[0] = -1;
    return 0;
}

static int inject(struct call *call)
{
    const struct message_inject *body = call->inject;
    int error = 0;
    struct port *port = named(call, body->port, &error);
    if (!port)
        return error;
    size_t len = call->len - sizeof *body;
    if (len < FRAME_MIN || len > FRAME_MAX)
        return refuse(call, EINVAL, "frame: %zu bytes", len);
    if (body->queue >= port->queues)
        return refuse(call, EINVAL, "queue: %u, of %u", body->queue, port->queues);
    if (body->direction > INJECT_IN)
        return refuse(call, EINVAL, "direction: %u", body->direction);
    struct iovec iov = {(void *)(uintptr_t)(call->bytes + sizeof *body), len};
    struct frame frame = {.iov = &iov, .iovcnt = 1, .len = (uint32_t)len};
    struct worker *worker = port->worker;
    worker_lock(worker);
    bool taken = wire_inject(port, body->queue, body->direction, &frame);
    worker_unlock(worker);
    return taken ? 0 : refuse(call, EAGAIN, "frame: there is no room");
}

static void report(struct call *call, struct port *port)
{
    struct port_stats *stats = (struct port_stats *)(void *)(call->data + call->data_len);
    struct worker *worker = port->worker;
    worker_lock(worker);
    *stats = (struct port_stats){port->id, port->active, port->stats};
    worker_unlock(worker);
    call->data_len += sizeof *stats;
}

static int stats(struct call *call)
{
    const struct message_stats *body = call->stats;
    int error = 0;
    if (body->port != STATS_ALL) {
        struct port *port = named(call, body->port, &error);
        if (port)
            report(call, port);
        return error;
    }
    struct port *port = port_next(body->first);
    for (unsigned i = 0; port && i < STATS_PORTS; i++, port = port_next(port->id + 1))
        report(call, port);
    return 0;
}

static int queues(struct call *call)
{
    const struct message_queues *body = call->queues;
    int error = 0;
    struct port *port = named(call, body->port, &error);
    if (!port)
        return error;
    if (port->kind == PORT_VHOST)
        return refuse(call, EINVAL, "port: %u has as many as rings are enabled", port->id);
    if (!body->pairs || body->pairs > port->queues)
        return refuse(call, EINVAL, "pairs: %u, of %u", body->pairs, port->queues);
    struct worker *worker = port->worker;
    worker_lock(worker);
    port->active = body->pairs;
    worker_unlock(worker);
    return 0;
}

static const struct {
    int (*obey)(struct call *);
    uint32_t least, most;
    bool fds;
} requests[] = {
    [REQUEST_HELLO] = {hello, sizeof(struct message_hello), sizeof(struct message_hello), false},
    [REQUEST_PORT_ADD] = {port_add, sizeof(struct message_port_add), MESSAGE_MAX, true},
    [REQUEST_PORT_REMOVE] = {port_remove, sizeof(struct message_port_remove), sizeof(struct message_port_remove),
                             false},
    [REQUEST_WIRE_SET] = {wire_request, sizeof(struct message_wire_set), MESSAGE_MAX, false},
    [REQUEST_FILTER] = {filter, sizeof(struct message_filter), MESSAGE_MAX, false},
    [REQUEST_DUMP] = {dump, sizeof(struct message_dump), sizeof(struct message_dump), true},
    [REQUEST_INJECT] = {inject, sizeof(struct message_inject), MESSAGE_MAX, false},
    [REQUEST_STATS] = {stats, sizeof(struct message_stats), sizeof(struct message_stats), false},
    [REQUEST_QUEUES] = {queues, sizeof(struct message_queues), sizeof(struct message_queues), false},
};

static int obey(struct call *call)
{
    uint32_t type = call->head->type;
    if (type >= sizeof requests / sizeof requests[0] || !requests[type].obey)
        return refuse(call, EOPNOTSUPP, "type: %u", type);
    if (call->len < requests[type].least || call->len > requests[type].most)
        return refuse(call, EINVAL, "length: %zu bytes of a request of type %u", call->len, type);
    if (call->fd_count && !requests[type].fds)
        return refuse(call, EINVAL, "fds: %u with a request of type %u", call->fd_count, type);
    if (!greeted && type != REQUEST_HELLO)
        return refuse(call, EINVAL, "type: %u before the hello", type);
    return requests[type].obey(call);
}

static unsigned take_fds(struct msghdr *received, int *fds)
{
    unsigned count = 0;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(received); each; each = CMSG_NXTHDR(received, each)) {
        if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS)
            continue;
        unsigned here = (unsigned)((each->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds + count, CMSG_DATA(each), here * sizeof(int));
        count += here;
    }
    return count;
}

static _Alignas(16) uint8_t incoming[MESSAGE_MAX + 1];
static _Alignas(16) uint8_t reply_bytes[sizeof(struct message_reply) + MESSAGE_MAX];

static void reply(const struct call *call, int error)
{
    struct message_reply *message = (struct message_reply *)(void *)reply_bytes;
    size_t len = call->data_len;
    if (error) {
        len = strlen(call->text);
        memcpy(reply_bytes + sizeof *message, call->text, len);
    }
    *message = (struct message_reply){{MESSAGE_REPLY, call->head->serial}, error, 0};
    enqueue(reply_bytes, sizeof *message + len, NULL, 0);
    flush();
}

static void readable(struct main_watch *watch)
{
    int fds[MESSAGE_FDS];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof fds)];
    } control;
    struct iovec iov = {incoming, sizeof incoming};
    struct msghdr received = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    if (!flush()) /* EPOLLOUT comes here as well */
        return;
    ssize_t got = recvmsg(watch->fd, &received, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0)
        _exit(0); /* control has gone, and with it the right to any of this; exit() would run beside the workers */
    struct call call = {.bytes = incoming, .len = (size_t)got, .fds = fds};
    call.fd_count = take_fds(&received, fds);
    call.data = reply_bytes + sizeof(struct message_reply);
    int error;
    if (call.len < sizeof(struct message_head))
        _exit(1); /* nothing that could be answered */
    if (received.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        error = refuse(&call, EMSGSIZE, "%s: too many", received.msg_flags & MSG_TRUNC ? "length" : "fds");
    else
        error = obey(&call);
    for (unsigned i = 0; i < call.fd_count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    reply(&call, error);
}

int channel_start(int fd, uint32_t sandbox)
{
    capabilities = sandbox;
    outgoing_event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (outgoing_event < 0)
        return errno;
    socket_watch = (struct main_watch){fd, readable};
    event_watch = (struct main_watch){outgoing_event, events_wait};
    int error = main_watch_add(&socket_watch);
    return error ? error : main_watch_add(&event_watch);
}
