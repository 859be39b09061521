/* Datagram sockets, unix or inet, connected or not: one frame per datagram (as backend/datagram.py of vnic). */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "ends.h"

#define RETRY_US 500u
#define RETRY_MAX_US 16000u

struct datagram_port {
    struct port port;
    int fd;
    int timer; /* -1, or a timerfd: when to try again */
    uint32_t retry_us;
    bool retries; /* the kernel reports no room: it is an unconnected unix socket */
    socklen_t dest_len, own_len;
    struct watch watch, timer_watch;
    struct backlog backlog;
    struct sockaddr_storage dest, own;
};

static int datagram_add(struct port *port, const struct port_request *request, char *text, size_t text_size)
{
    struct datagram_port *datagram = (struct datagram_port *)port;
    const struct message_port_add *body = request->body;
    if (request->fd_count != 1 || port->queues != 1)
        return end_refuse(EINVAL, text, text_size, "fds: %u for %u queues of a datagram socket", request->fd_count,
                          port->queues);
    if (port->flags & ~(uint32_t)PORT_MULTICAST_OWN)
        return end_refuse(EINVAL, text, text_size, "flags: not those of a datagram socket");
    if (body->dest_len > sizeof datagram->dest || body->own_len > sizeof datagram->own)
        return end_refuse(EINVAL, text, text_size, "dest_len, own_len: longer than an address");
    if ((port->flags & PORT_MULTICAST_OWN) && body->own_len < sizeof(sa_family_t))
        return end_refuse(EINVAL, text, text_size, "own_len: no address of its own");
    int domain;
    socklen_t domain_len = sizeof domain;
    if (getsockopt(request->fds[0], SOL_SOCKET, SO_DOMAIN, &domain, &domain_len))
        return end_refuse(errno, text, text_size, "fds: not a socket");
    datagram->fd = request->fds[0];
    datagram->timer = -1;
    datagram->retry_us = RETRY_US;
    datagram->dest_len = body->dest_len;
    datagram->own_len = body->own_len;
    memcpy(&datagram->dest, request->dest, body->dest_len);
    memcpy(&datagram->own, request->own, body->own_len);
    /* The kernel reports room on connected sockets only; an unconnected one always looks writable. */
    datagram->retries = domain == AF_UNIX && body->dest_len;
    if (datagram->retries) {
        datagram->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        datagram->timer_watch.room = true;
    }
    if ((datagram->retries && (datagram->timer < 0 ||
                               port_watch(port, &datagram->timer_watch, datagram->timer, 0, EPOLLIN))) ||
        port_watch(port, &datagram->watch, datagram->fd, 0, EPOLLIN)) {
        int error = errno;
        port_watch(port, &datagram->timer_watch, datagram->timer, 0, 0);
        if (datagram->timer >= 0)
            close(datagram->timer);
        return end_refuse(error, text, text_size, "fds: %s", strerror(error));
    }
    return 0;
}

static void datagram_remove(struct port *port)
{
    struct datagram_port *datagram = (struct datagram_port *)port;
    backlog_return(&datagram->backlog, port, 0);
    if (datagram->timer >= 0)
        close(datagram->timer);
    close(datagram->fd);
}

static void await_room(struct datagram_port *datagram)
{
    if (!datagram->retries) {
        port_watch(&datagram->port, &datagram->watch, datagram->fd, 0, EPOLLIN | EPOLLOUT);
        return;
    }
    struct itimerspec when = {.it_value.tv_nsec = (long)datagram->retry_us * 1000};
    timerfd_settime(datagram->timer, 0, &when, NULL);
    if (datagram->retry_us < RETRY_MAX_US)
        datagram->retry_us *= 2;
}

static unsigned datagram_send(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    (void)queue;
    struct datagram_port *datagram = (struct datagram_port *)port;
    const struct sockaddr_storage *dest = datagram->dest_len ? &datagram->dest : NULL;
    unsigned taken = 0;
    while (taken < n) {
        int done = end_send_datagrams(datagram->fd, dest, datagram->dest_len, false, frames + taken, n - taken);
        if (done == -EAGAIN) {
            await_room(datagram);
            return taken;
        }
        datagram->retry_us = RETRY_US;
        if (done <= 0) {
            /* No receiver, or too long for the network: lost, as datagrams may be. */
            port->stats.refused++;
            taken++;
        }
        for (; done > 0; done--)
            end_sent(port, &frames[taken++]);
    }
    return taken;
}

static unsigned datagram_receive(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    return end_receive(port, queue, frames, n, datagram_send);
}

/* Whether the datagram came from our own address: a group's members on this host get what they send. */
static bool is_own(const struct datagram_port *datagram, const struct msghdr *message)
{
    const struct sockaddr_storage *from = message->msg_name;
    if (!(datagram->port.flags & PORT_MULTICAST_OWN) || message->msg_namelen < sizeof from->ss_family ||
        from->ss_family != datagram->own.ss_family)
        return false;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *a = message->msg_name, *b = (const struct sockaddr_in *)&datagram->own;
        return message->msg_namelen >= sizeof *a && datagram->own_len >= sizeof *b && a->sin_port == b->sin_port &&
               a->sin_addr.s_addr == b->sin_addr.s_addr;
    }
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *a = message->msg_name, *b = (const struct sockaddr_in6 *)&datagram->own;
        return message->msg_namelen >= sizeof *a && datagram->own_len >= sizeof *b && a->sin6_port == b->sin6_port &&
               !memcmp(&a->sin6_addr, &b->sin6_addr, sizeof a->sin6_addr);
    }
    return message->msg_namelen == datagram->own_len && !memcmp(message->msg_name, &datagram->own, datagram->own_len);
}

static unsigned datagram_poll(struct port *port, unsigned queue)
{
    struct datagram_port *datagram = (struct datagram_port *)port;
    bool wants_name = port->flags & PORT_MULTICAST_OWN;
    uint8_t *pool = end_pool();
    struct mmsghdr messages[BATCH];
    struct sockaddr_storage names[BATCH];
    struct iovec iov[BATCH];
    struct frame frames[BATCH];
    unsigned moved = 0;
    if (!backlog_send(&datagram->backlog, port, queue, &moved))
        return moved;
    if (!pool) {
        event_port_lost(port, queue, ENOMEM);
        return moved;
    }
    memset(messages, 0, sizeof messages);
    for (unsigned i = 0; i < BATCH; i++) {
        iov[i] = (struct iovec){pool + i * END_SLOT, FRAME_MAX};
        messages[i].msg_hdr.msg_iov = &iov[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        if (wants_name) {
            messages[i].msg_hdr.msg_name = &names[i];
            messages[i].msg_hdr.msg_namelen = sizeof names[i];
        }
    }
    int got = -1;
    /* An error tells of an earlier datagram (ICMP); the next one is not affected. */
    for (unsigned tries = 0; got < 0 && tries < BATCH; tries++) {
        got = recvmmsg(datagram->fd, messages, BATCH, MSG_DONTWAIT, NULL);
        if (got < 0 && errno == EAGAIN)
            return moved;
    }
    if (got <= 0)
        return moved;
    unsigned n = 0;
    for (int i = 0; i < got; i++) {
        if (is_own(datagram, &messages[i].msg_hdr))
            continue;
        bool cut = messages[i].msg_hdr.msg_flags & MSG_TRUNC;
        iov[i].iov_len = messages[i].msg_len;
        if (cut)
            port->stats.too_long++;
        else
            frames[n++] = (struct frame){.iov = &iov[i], .iovcnt = 1, .len = messages[i].msg_len};
    }
    backlog_pass(&datagram->backlog, port, queue, frames, n);
    return moved + (unsigned)got;
}

static void datagram_writable(struct port *port, unsigned queue)
{
    struct datagram_port *datagram = (struct datagram_port *)port;
    port_watch(port, &datagram->watch, datagram->fd, queue, EPOLLIN);
    wire_has_room(port, queue);
}

const struct port_ops datagram_port_ops = {
    .size = sizeof(struct datagram_port),
    .add = datagram_add,
    .remove = datagram_remove,
    .receive = datagram_receive,
    .poll = datagram_poll,
    .writable = datagram_writable,
};
