/* Taps: one descriptor for each queue, frames with a virtio_net_hdr or without (as backend/tap/backend.py of vnic). */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "ends.h"

#define READ_BYTES (65536u + 10u + 256u) /* the longest frame of the kernel: 64 KiB of TSO and its headers */
#define POOL_BYTES (256u * 1024u)        /* of the pool: small enough for a cache */

struct tap_queue {
    int fd;
    struct watch watch;
    struct backlog backlog;
};

struct tap_port {
    struct port port;
    struct tap_queue *queues;
};

static struct tap_queue *queue_of(struct port *port, unsigned queue)
{
    return &((struct tap_port *)port)->queues[queue];
}

static int tap_add(struct port *port, const struct port_request *request, char *text, size_t text_size)
{
    struct tap_port *tap = (struct tap_port *)port;
    const struct message_port_add *body = request->body;
    if (request->fd_count != port->queues)
        return end_refuse(EINVAL, text, text_size, "fds: %u for %u queues", request->fd_count, port->queues);
    if (body->dest_len || body->own_len)
        return end_refuse(EINVAL, text, text_size, "dest_len, own_len: a tap has none");
    if (port->flags & PORT_OFFLOAD && !(port->flags & PORT_VNET_HDR))
        return end_refuse(EINVAL, text, text_size, "flags: OFFLOAD without VNET_HDR");
    tap->queues = calloc(port->queues, sizeof *tap->queues);
    if (!tap->queues)
        return end_refuse(ENOMEM, text, text_size, "queues: out of memory");
    int error = 0;
    unsigned i = 0;
    for (; i < port->queues && !error; i++) {
        tap->queues[i].fd = request->fds[i];
        error = end_unblock(request->fds[i]);
        if (!error && port_watch(port, &tap->queues[i].watch, request->fds[i], i, EPOLLIN))
            error = errno;
    }
    if (!error)
        return 0;
    for (unsigned k = 0; k < i; k++)
        port_watch(port, &tap->queues[k].watch, tap->queues[k].fd, k, 0);
    free(tap->queues);
    return end_refuse(error, text, text_size, "fds: queue %u cannot be watched", i - 1);
}

static void tap_remove(struct port *port)
{
    for (unsigned i = 0; i < port->queues; i++) {
        close(queue_of(port, i)->fd);
        backlog_return(&queue_of(port, i)->backlog, port, i);
    }
    free(((struct tap_port *)port)->queues);
}

/* Whether the interface is gone; its other errors cost a frame only. */
static bool is_gone(int error)
{
    return error == EBADFD || error == ENODEV;
}

static unsigned tap_send(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    struct tap_queue *own = queue_of(port, queue);
    for (unsigned i = 0; i < n; i++) {
        const struct frame *frame = &frames[i];
        struct iovec iov[END_IOV];
        struct net_header hdr = end_pending(frame->hdr);
        unsigned count = 0;
        if (port->flags & PORT_VNET_HDR)
            iov[count++] = (struct iovec){&hdr, sizeof hdr};
        if (likely(frame->iovcnt <= END_IOV - 1)) {
            for (uint32_t k = 0; k < frame->iovcnt; k++)
                iov[count++] = frame->iov[k];
        } else {
            iov[count++] = (struct iovec){(void *)(uintptr_t)end_gather(frame), frame->len};
        }
        ssize_t done;
        do {
            done = writev(own->fd, iov, (int)count);
        } while (done < 0 && errno == EINTR);
        if (likely(done >= 0)) {
            end_sent(port, frame);
        } else if (errno == EAGAIN) {
            port_watch(port, &own->watch, own->fd, queue, EPOLLIN | EPOLLOUT);
            return i;
        } else if (is_gone(errno)) {
            event_port_lost(port, queue, errno);
            port->stats.no_peer += n - i;
            return n;
        } else {
            /* EIO: the interface is down on the host; EINVAL: the kernel refuses the frame. It is lost, as on a
             * physical cable. */
            port->stats.refused++;
        }
    }
    return n;
}

static unsigned tap_receive(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    return end_receive(port, queue, frames, n, tap_send);
}

static unsigned tap_poll(struct port *port, unsigned queue)
{
    struct tap_queue *own = queue_of(port, queue);
    uint8_t *pool = end_pool();
    size_t header = port->flags & PORT_VNET_HDR ? sizeof(struct net_header) : 0;
    struct frame frames[BATCH];
    struct iovec iov[BATCH];
    unsigned moved = 0, n = 0;
    if (!backlog_send(&own->backlog, port, queue, &moved))
        return moved;
    if (!pool) {
        event_port_lost(port, queue, ENOMEM);
        return moved;
    }
    for (size_t at = 0; n < BATCH && at + READ_BYTES + sizeof(struct net_header) <= POOL_BYTES;) {
        struct net_header hdr = {0};
        struct iovec parts[] = {{&hdr, header}, {pool + at, READ_BYTES}};
        ssize_t got = header ? readv(own->fd, parts, 2) : read(own->fd, pool + at, READ_BYTES);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                event_port_lost(port, queue, errno);
            break;
        }
        size_t len = (size_t)got > header ? (size_t)got - header : 0;
        iov[n] = (struct iovec){pool + at, len};
        frames[n] = (struct frame){.iov = &iov[n], .iovcnt = 1, .len = (uint32_t)len, .hdr = end_pending(hdr)};
        n++;
        at += (len + 63) & ~(size_t)63;
    }
    if (n)
        backlog_pass(&own->backlog, port, queue, frames, n);
    return moved + n;
}

static void tap_writable(struct port *port, unsigned queue)
{
    struct tap_queue *own = queue_of(port, queue);
    port_watch(port, &own->watch, own->fd, queue, EPOLLIN);
    wire_has_room(port, queue);
}

const struct port_ops tap_port_ops = {
    .size = sizeof(struct tap_port),
    .add = tap_add,
    .remove = tap_remove,
    .receive = tap_receive,
    .poll = tap_poll,
    .writable = tap_writable,
};
