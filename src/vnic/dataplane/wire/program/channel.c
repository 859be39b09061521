/* Requests of control: each is checked against its bounds, obeyed, and answered in order. See channel.h, protocol.h. */
#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "call.h"
#include "doorbell.h"
#include "events.h"
#include "guard.h"
#include "line.h"
#include "main_loop.h"
#include "memory.h"
#include "sandbox.h"
#include "table.h"
#include "tunnel.h"
#include "tunnel_requests.h"
#include "vhost_port.h"
#include "worker.h"

#pragma GCC diagnostic ignored "-Wsign-compare" /* musl's CMSG_NXTHDR */

/* -- requests ------------------------------------------------------------------------------------------------- */

static bool greeted;
static int control_fd;
static uint32_t capabilities;

int refuse(struct call *call, int error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(call->text, sizeof call->text, format, arguments);
    va_end(arguments);
    return error;
}

struct port *named(struct call *call, uint32_t id, int *error)
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
    int error = mep_start();
    if (!error)
        error = guard_start(control_fd);
    if (!error)
        error = workers_start(body->workers, body->spin_us);
    if (error)
        return refuse(call, error, "workers: %s", strerror(error));
#ifndef NO_SANDBOX
    capabilities |= sandbox_seal(); /* all threads are there, and nothing but the hello was read yet */
#endif
    greeted = true;
    struct hello_reply reply = {PROTOCOL_VERSION, (uint32_t)getpid(), capabilities, vhost_user_features,
                                vhost_user_protocol_features};
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
    case PORT_TUNNEL:
        return &tunnel_port_ops;
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
    if (port->kind == PORT_TUNNEL)
        port->worker = &workers[0]; /* which reads the tunnels' sockets */
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
    line_remove_all(port);
    worker_remove_port(port);
    dump_remove_all(port);
    if (port->ops->state)
        call->data_len = port->ops->state(port, call->data);
    port->ops->remove(port);
    port_free(port);
    worker_unlock(worker);
    line_free_discarded();
    memory_unmap_discarded();
    return 0;
}

static int hold(struct call *call)
{
    (void)call;
    workers_lock();
    wires_hold();
    workers_unlock();
    return 0;
}

static int port_recall(struct call *call)
{
    int error = 0;
    struct port *port = named(call, call->port_recall->port, &error);
    if (!port)
        return error;
    struct recall_reply head = {.kind = port->kind};
    uint8_t *data = call->data + sizeof head;
    struct worker *worker = port->worker;
    worker_lock(worker);
    wire_leave(port);
    head.lines = line_keep_all(port);
    worker_remove_port(port);
    dump_remove_all(port);
    head.stats = (struct port_stats){port->id, port->active, port->stats};
    if (port->ops->state)
        data += port->ops->state(port, data);
    if (port->kind == PORT_TUNNEL)
        data += tunnel_report(port, data);
    data += lines_report(port->id, data);
    memcpy(call->data, &head, sizeof head);
    call->data_len = (size_t)(data - call->data);
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

static int doorbell(struct call *call)
{
    const struct message_doorbell *body = call->doorbell;
    int error = 0;
    struct port *port = named(call, body->port, &error);
    if (!port)
        return error;
    if (port->kind != PORT_VHOST)
        return refuse(call, EINVAL, "port: %u has no rings", port->id);
    if (call->fd_count != DOORBELL_FDS)
        return refuse(call, EINVAL, "fds: %u of %u", call->fd_count, DOORBELL_FDS);
    struct worker *worker = port->worker;
    worker_lock(worker);
    error = doorbell_add(vhost_port(port), body, call->fds, call->text, sizeof call->text);
    worker_unlock(worker);
    for (unsigned i = 0; i < DOORBELL_FDS && !error; i++)
        call->fds[i] = -1;
    return error;
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
    [REQUEST_DOORBELL] = {doorbell, sizeof(struct message_doorbell), sizeof(struct message_doorbell), true},
    [REQUEST_HOLD] = {hold, sizeof(struct message_head), sizeof(struct message_head), false},
    [REQUEST_PORT_RECALL] = {port_recall, sizeof(struct message_port_recall), sizeof(struct message_port_recall),
                             false},
    [REQUEST_QUEUES] = {queues, sizeof(struct message_queues), sizeof(struct message_queues), false},
    [REQUEST_SOCKET_ADD] = {socket_add, sizeof(struct message_socket_add), sizeof(struct message_socket_add), true},
    [REQUEST_SOCKET_REMOVE] = {socket_remove, sizeof(struct message_socket_remove), sizeof(struct message_socket_remove),
                               false},
    [REQUEST_CCM_SET] = {ccm_set, sizeof(struct message_ccm_set), sizeof(struct message_ccm_set), false},
    [REQUEST_PORT_TO_CONTROL] = {port_to_control, sizeof(struct message_port_to_control),
                                 sizeof(struct message_port_to_control), false},
    [REQUEST_TUNNEL_STATS] = {tunnel_stats, sizeof(struct message_tunnel_stats), sizeof(struct message_tunnel_stats),
                              false},
    [REQUEST_SOCKET_STATS] = {socket_stats, sizeof(struct message_socket_stats), sizeof(struct message_socket_stats),
                               false},
    [REQUEST_IMPAIR] = {impair_request, sizeof(struct message_impair), MESSAGE_MAX, false},
    [REQUEST_IMPAIR_STATS] = {impair_stats_request, sizeof(struct message_impair_stats), sizeof(struct message_impair_stats),
                              false},
    [REQUEST_LINE_TAKE] = {line_take_request, sizeof(struct message_line_take), sizeof(struct message_line_take), false},
    [REQUEST_LINES_DROP] = {lines_drop_request, sizeof(struct message_head), sizeof(struct message_head), false},
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
    uint32_t port = call->len >= sizeof *call->port_remove ? call->port_remove->port : 0;
    *message = (struct message_reply){{MESSAGE_REPLY, call->head->serial}, error, REPLY_ABOUT(call->head->type, port)};
    events_enqueue(reply_bytes, sizeof *message + len, NULL, 0);
    events_flush();
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
    if (!events_flush()) /* EPOLLOUT comes here as well */
        return;
    ssize_t got = recvmsg(watch->fd, &received, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
#ifdef TEST_HANG
        for (;;)
            poll(NULL, 0, -1);
#endif
        mep_goodbye();
        _exit(0); /* control has gone, and with it the right to any of this; exit() would run beside the workers */
    }
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
    static struct main_watch watch;
    capabilities = sandbox;
    control_fd = fd;
    watch = (struct main_watch){fd, readable};
    int error = main_watch_add(&watch);
    return error ? error : events_start(&watch);
}
