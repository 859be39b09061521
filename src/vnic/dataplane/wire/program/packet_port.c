/* Packet sockets (packet(7)): the port is beside the host on an interface of its. One bound socket for each queue;
 * control has set PACKET_AUXDATA, PACKET_IGNORE_OUTGOING where the kernel has it, and with VNET_HDR PACKET_VNET_HDR. */
#include <endian.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ends.h"

#define MAC_BYTES 12u /* both addresses: a VLAN tag stands behind them */
#define TAG_BYTES 4u
#define READ_BYTES (FRAME_MAX - TAG_BYTES)

struct packet_queue {
    int fd;
    struct watch watch;
    struct backlog backlog;
};

struct packet_port {
    struct port port;
    struct packet_queue *queues;
};

/* What the kernel says of one frame. */
union ancillary {
    char bytes[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
    struct cmsghdr align;
};

static struct packet_queue *queue_of(struct port *port, unsigned queue)
{
    return &((struct packet_port *)port)->queues[queue];
}

static int option(int fd, int level, int name, int *value)
{
    socklen_t len = sizeof *value;
    return getsockopt(fd, level, name, value, &len) ? errno : 0;
}

/* Whether the descriptor is what the port's flags say. 0, or an errno. */
static int check(const struct port *port, int fd)
{
    int domain, header, aside;
    int error = option(fd, SOL_SOCKET, SO_DOMAIN, &domain);
    if (error)
        return error;
    if (domain != AF_PACKET)
        return EPROTOTYPE;
    if ((error = option(fd, SOL_PACKET, PACKET_VNET_HDR, &header)) ||
        (error = option(fd, SOL_PACKET, PACKET_AUXDATA, &aside)))
        return error;
    return aside && !header == !(port->flags & PORT_VNET_HDR) ? 0 : EPROTO;
}

static int packet_add(struct port *port, const struct port_request *request, char *text, size_t text_size)
{
    struct packet_port *packet = (struct packet_port *)port;
    const struct message_port_add *body = request->body;
    if (request->fd_count != port->queues)
        return end_refuse(EINVAL, text, text_size, "fds: %u for %u queues", request->fd_count, port->queues);
    if (body->dest_len || body->own_len)
        return end_refuse(EINVAL, text, text_size, "dest_len, own_len: a packet socket has none");
    if (port->flags & PORT_MULTICAST_OWN || (port->flags & PORT_OFFLOAD && !(port->flags & PORT_VNET_HDR)))
        return end_refuse(EINVAL, text, text_size, "flags: %#x", port->flags);
    packet->queues = calloc(port->queues, sizeof *packet->queues);
    if (!packet->queues)
        return end_refuse(ENOMEM, text, text_size, "queues: out of memory");
    int error = 0;
    unsigned i = 0;
    for (; i < port->queues && !error; i++) {
        struct packet_queue *own = &packet->queues[i];
        own->fd = request->fds[i];
        error = check(port, own->fd);
        if (!error && port_watch(port, &own->watch, own->fd, i, EPOLLIN))
            error = errno;
    }
    if (!error)
        return 0;
    for (unsigned k = 0; k < i; k++)
        port_watch(port, &packet->queues[k].watch, packet->queues[k].fd, k, 0);
    free(packet->queues);
    return end_refuse(error, text, text_size, "fds: queue %u: %s", i - 1, strerror(error));
}

static void packet_remove(struct port *port)
{
    for (unsigned i = 0; i < port->queues; i++) {
        close(queue_of(port, i)->fd);
        backlog_return(&queue_of(port, i)->backlog, port, i);
    }
    free(((struct packet_port *)port)->queues);
}

static unsigned packet_send(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    struct packet_queue *own = queue_of(port, queue);
    unsigned taken = 0;
    while (taken < n) {
        int done = end_send_datagrams(own->fd, NULL, 0, port->flags & PORT_VNET_HDR, frames + taken, n - taken);
        if (done == -EAGAIN) {
            port_watch(port, &own->watch, own->fd, queue, EPOLLIN | EPOLLOUT);
            return taken;
        }
        if (done == -ENXIO || done == -ENODEV) {
            event_port_lost(port, queue, ENODEV);
            port->stats.no_peer += n - taken;
            return n;
        }
        if (done <= 0) {
            /* ENETDOWN: the interface is down; EMSGSIZE: longer than its MTU; ENOBUFS: its queue is full. The frame is
             * lost, as on a physical cable. */
            port->stats.refused++;
            taken++;
        }
        for (; done > 0; done--)
            end_sent(port, &frames[taken++]);
    }
    return taken;
}

static unsigned packet_receive(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    return end_receive(port, queue, frames, n, packet_send);
}

/* Where a message for queue i of the pool is read to: the virtio_net_hdr, and the frame in two pieces, so that a VLAN tag
 * can be put between them. */
struct place {
    struct net_header hdr;
    uint8_t tag[TAG_BYTES];
    struct iovec read[3];
    struct iovec iov[3];
    struct sockaddr_ll name;
    union ancillary ancillary;
};

static void prepare(struct place *place, struct msghdr *message, uint8_t *buffer, bool header)
{
    place->hdr = (struct net_header){0};
    place->read[0] = (struct iovec){&place->hdr, sizeof place->hdr};
    place->read[1] = (struct iovec){buffer, READ_BYTES};
    *message = (struct msghdr){
        .msg_name = &place->name,
        .msg_namelen = sizeof place->name,
        .msg_iov = header ? place->read : place->read + 1,
        .msg_iovlen = header ? 2 : 1,
        .msg_control = &place->ancillary,
        .msg_controllen = sizeof place->ancillary,
    };
}

/* The frame's VLAN tag into place->tag. False: it has none that the kernel took out. */
static bool find_tag(struct place *place, struct msghdr *message)
{
    const struct cmsghdr *only = CMSG_FIRSTHDR(message); /* nothing else was asked for */
    struct tpacket_auxdata data;
    if (!only || only->cmsg_level != SOL_PACKET || only->cmsg_type != PACKET_AUXDATA ||
        only->cmsg_len < CMSG_LEN(sizeof data))
        return false;
    memcpy(&data, CMSG_DATA(only), sizeof data);
    if (!(data.tp_status & TP_STATUS_VLAN_VALID))
        return false;
    unsigned type = data.tp_status & TP_STATUS_VLAN_TPID_VALID ? data.tp_vlan_tpid : ETHERTYPE_VLAN;
    place->tag[0] = (uint8_t)(type >> 8);
    place->tag[1] = (uint8_t)type;
    place->tag[2] = (uint8_t)(data.tp_vlan_tci >> 8);
    place->tag[3] = (uint8_t)data.tp_vlan_tci;
    return true;
}

static struct frame read_frame(struct place *place, struct msghdr *message, size_t len)
{
    uint8_t *buffer = place->read[1].iov_base;
    struct frame frame = {.iov = place->iov, .iovcnt = 1, .len = (uint32_t)len, .hdr = end_pending(place->hdr)};
    place->iov[0] = (struct iovec){buffer, len};
    if (len >= FRAME_MIN && find_tag(place, message)) {
        place->iov[0].iov_len = MAC_BYTES;
        place->iov[1] = (struct iovec){place->tag, TAG_BYTES};
        place->iov[2] = (struct iovec){buffer + MAC_BYTES, len - MAC_BYTES};
        frame.iovcnt = 3;
        frame.len += TAG_BYTES;
        if (!frame_is_complete(&frame)) {
            frame.hdr.hdr_len = htole16((uint16_t)(le16toh(frame.hdr.hdr_len) + TAG_BYTES));
            frame.hdr.csum_start = htole16((uint16_t)(le16toh(frame.hdr.csum_start) + TAG_BYTES));
        }
    }
    return frame;
}

/* Whether the interface was deleted. The kernel reports that and a mere "down" as the same error, and may report it
 * before it has taken the interface from the socket: then packet_send finds out, or control, which watches it. */
static bool is_unbound(int fd)
{
    struct sockaddr_ll name;
    socklen_t len = sizeof name;
    return !getsockname(fd, (struct sockaddr *)&name, &len) && name.sll_ifindex < 0;
}

static unsigned packet_poll(struct port *port, unsigned queue)
{
    struct packet_queue *own = queue_of(port, queue);
    bool header = port->flags & PORT_VNET_HDR;
    uint8_t *pool = end_pool();
    struct mmsghdr messages[BATCH];
    struct place places[BATCH];
    struct frame frames[BATCH];
    unsigned moved = 0;
    if (!backlog_send(&own->backlog, port, queue, &moved))
        return moved;
    if (!pool) {
        event_port_lost(port, queue, ENOMEM);
        return moved;
    }
    for (unsigned i = 0; i < BATCH; i++)
        prepare(&places[i], &messages[i].msg_hdr, pool + i * END_SLOT, header);
    int got = -1;
    for (unsigned tries = 0; got < 0 && tries < BATCH; tries++) {
        got = recvmmsg(own->fd, messages, BATCH, MSG_DONTWAIT, NULL);
        if (got < 0 && errno == EAGAIN)
            return moved;
        if (got < 0 && errno == ENETDOWN && is_unbound(own->fd)) {
            event_port_lost(port, queue, ENODEV);
            return moved;
        }
    }
    if (got <= 0)
        return moved;
    unsigned n = 0, skip = header ? sizeof(struct net_header) : 0;
    for (int i = 0; i < got; i++) {
        struct msghdr *message = &messages[i].msg_hdr;
        unsigned len = messages[i].msg_len > skip ? messages[i].msg_len - skip : 0;
        if (places[i].name.sll_pkttype == PACKET_OUTGOING)
            continue;
        if (message->msg_flags & MSG_TRUNC)
            port->stats.too_long++;
        else
            frames[n++] = read_frame(&places[i], message, len);
    }
    backlog_pass(&own->backlog, port, queue, frames, n);
    return moved + (unsigned)got;
}

static void packet_writable(struct port *port, unsigned queue)
{
    struct packet_queue *own = queue_of(port, queue);
    port_watch(port, &own->watch, own->fd, queue, EPOLLIN);
    wire_has_room(port, queue);
}

const struct port_ops packet_port_ops = {
    .size = sizeof(struct packet_port),
    .add = packet_add,
    .remove = packet_remove,
    .receive = packet_receive,
    .poll = packet_poll,
    .writable = packet_writable,
};
