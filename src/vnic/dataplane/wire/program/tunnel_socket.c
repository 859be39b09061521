/* Where tunnels receive: one UDP socket for all that have its address, whose datagrams are told apart by VNI and source.
 * See tunnel.h.
 *
 * It is read until it is empty, whatever the wires take: a tunnel whose wire has no room must not hold up the others, nor
 * its own CCMs. What the wire does not take waits at the tunnel, up to a bound.
 *
 * What comes as a run was cut by the peer, which had it from a guest as one: where the wire takes that, it is joined. */
#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "join.h"
#include "table.h"
#include "tunnel.h"
#include "worker.h"

#pragma GCC diagnostic ignored "-Wsign-compare" /* musl's CMSG_NXTHDR */

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define READS 32u             /* datagrams, or runs of them, in one turn */
#define SEGMENTS 512u         /* frames that are looked at together */
#define RUN_MAX 128u          /* datagrams of one run (the kernel's UDP_MAX_SEGMENTS) */
#define KEPT_BYTES (1u << 20) /* of frames that wait at one tunnel for its wire */
#define SKB_MIN 512u          /* of a socket's memory, for one datagram, at least */
#define COMPLAIN_NS 60000000000u
#define QUIET_NS 1000000000u
#define VNI_VALID 0x08u

static struct tunnel_socket *sockets;

/* An Ethernet frame in the thread's pool. */
struct arrived {
    struct tunnel_port *tunnel;
    struct segment frame;
};

bool complain(struct complaint *complaint)
{
    uint64_t now = tunnel_now_ns();
    if (complaint->logged_ns && now - complaint->logged_ns < COMPLAIN_NS)
        return false;
    complaint->logged_ns = now;
    return true;
}

/* -- whose datagram it is ----------------------------------------------------------------------------------------- */

static bool is_from(const struct tunnel_port *tunnel, const struct sockaddr_storage *source)
{
    if (source->ss_family != tunnel->remote.ss_family)
        return false;
    if (source->ss_family == AF_INET)
        return ((const struct sockaddr_in *)source)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)&tunnel->remote)->sin_addr.s_addr;
    const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)source;
    const struct sockaddr_in6 *b = (const struct sockaddr_in6 *)&tunnel->remote;
    return !memcmp(&a->sin6_addr, &b->sin6_addr, sizeof a->sin6_addr) &&
           (a->sin6_scope_id == b->sin6_scope_id || !a->sin6_scope_id || !b->sin6_scope_id);
}

static struct tunnel_port **bucket_of(struct tunnel_socket *socket, uint32_t vni)
{
    return &socket->buckets[(vni ^ vni >> 8 ^ vni >> 16) % TUNNEL_BUCKETS];
}

/* NULL: there is none; *vni_is_known tells whether its VNI is that of other peers. */
static struct tunnel_port *find(struct tunnel_socket *socket, uint32_t vni, const struct sockaddr_storage *source,
                                bool *vni_is_known)
{
    *vni_is_known = false;
    for (struct tunnel_port *each = *bucket_of(socket, vni); each; each = each->next) {
        if (each->vni != vni)
            continue;
        if (is_from(each, source))
            return each;
        *vni_is_known = true;
    }
    return NULL;
}

static void refuse_datagram(struct tunnel_socket *socket, uint64_t *count, struct complaint *complaint,
                            const char *what)
{
    ++*count;
    if (complain(complaint))
        event_log(LOG_WARNING, "tunnels' socket %u: datagrams %s are dropped", socket->id, what);
}

/* Check the key. False: it is counted. */
static bool open_datagram(struct tunnel_port *tunnel, const uint8_t *datagram, size_t *len)
{
    struct tunnel_stats *stats = &tunnel->stats;
    if (tunnel->key.on) {
        switch (key_open(&tunnel->key, datagram, len)) {
        case KEY_GOOD:
            break;
        case KEY_SHORT:
            tunnel_trouble(tunnel, &stats->truncated);
            return false;
        case KEY_BAD:
            tunnel_trouble(tunnel, &stats->bad_key);
            return false;
        case KEY_OWN:
            tunnel_trouble(tunnel, &stats->wrong_mep);
            return false;
        case KEY_REPLAYED:
            tunnel_trouble(tunnel, &stats->replayed);
            return false;
        }
    }
    if (*len >= VXLAN_HEADER + FRAME_MIN)
        return true;
    tunnel_trouble(tunnel, &stats->truncated);
    return false;
}

/* One datagram: its CCM is judged at once. True: it has a frame that goes on. */
static bool take(struct tunnel_socket *socket, const struct sockaddr_storage *source, uint8_t *datagram, size_t len,
                 struct arrived *arrived)
{
    bool vni_is_known;
    if (len < VXLAN_HEADER) {
        refuse_datagram(socket, &socket->stats.truncated, &socket->truncated, "that are cut short");
        return false;
    }
    if (!(datagram[0] & VNI_VALID)) {
        refuse_datagram(socket, &socket->stats.not_vxlan, &socket->not_vxlan, "that are not VXLAN");
        return false;
    }
    uint32_t vni = (uint32_t)datagram[4] << 16 | (uint32_t)datagram[5] << 8 | datagram[6];
    struct tunnel_port *tunnel = find(socket, vni, source, &vni_is_known);
    if (!tunnel) {
        if (vni_is_known)
            refuse_datagram(socket, &socket->stats.unknown_source, &socket->unknown_source,
                            "from addresses without a tunnel");
        else if (socket->quiet_ns > tunnel_now_ns())
            socket->stats.unknown_vni++;
        else
            refuse_datagram(socket, &socket->stats.unknown_vni, &socket->unknown_vni, "of an unknown VNI");
        return false;
    }
    if (!open_datagram(tunnel, datagram, &len))
        return false;
    *arrived = (struct arrived){tunnel, {datagram + VXLAN_HEADER, len - VXLAN_HEADER}};
    if (!tunnel_owns(tunnel, arrived->frame.bytes, arrived->frame.len))
        return true;
    mep_receive(tunnel, arrived->frame.bytes, arrived->frame.len);
    return false;
}

/* -- frames ------------------------------------------------------------------------------------------------------- */

static void send_frames(struct tunnel_port *tunnel, const struct frame *frames, unsigned n)
{
    struct port *port = &tunnel->port;
    unsigned taken = 0;
    if (n && backlog_is_empty(&tunnel->backlog))
        taken = wire_send(port, 0, frames, n);
    if (taken == n)
        return;
    port->stats.no_room += backlog_add(&tunnel->backlog, frames + taken, n - taken, KEPT_BYTES);
    port_run(port, 0); /* it waits for room */
}

static void send_to_control(struct tunnel_port *tunnel, const struct segment *segments, unsigned n)
{
    struct stats *stats = &tunnel->port.stats;
    for (unsigned i = 0; i < n; i++) {
        if (event_frame_received(&tunnel->port, segments[i].bytes, (uint32_t)segments[i].len)) {
            stats->frames_in++;
            stats->bytes_in += segments[i].len;
        } else {
            stats->no_room++;
        }
    }
}

/* Frames of one tunnel, in order. */
static void deliver(struct tunnel_port *tunnel, const struct segment *segments, unsigned n)
{
    struct frame frames[BATCH];
    struct iovec iov[BATCH * 2];
    if (tunnel->to_control) {
        send_to_control(tunnel, segments, n);
        return;
    }
    uint32_t takes = wire_takes(&tunnel->port);
    for (unsigned at = 0; at < n;) {
        unsigned count = 0, pieces = 0;
        for (; at < n && count < BATCH && pieces <= BATCH; count++) {
            at += join_segments(segments + at, n - at, takes, &frames[count], iov + pieces);
            pieces += frames[count].iovcnt;
        }
        send_frames(tunnel, frames, count);
    }
}

static void deliver_all(const struct arrived *arrived, unsigned count)
{
    for (unsigned at = 0; at < count;) {
        struct tunnel_port *tunnel = arrived[at].tunnel;
        struct segment segments[SEGMENTS];
        unsigned n = 0;
        for (; at < count && n < SEGMENTS && arrived[at].tunnel == tunnel; at++) {
            if (tunnel_is_long(tunnel, arrived[at].frame.bytes, arrived[at].frame.len))
                tunnel->port.stats.too_long++;
            else
                segments[n++] = arrived[at].frame;
        }
        deliver(tunnel, segments, n);
    }
}

/* How long each datagram of the run is that came as one; 0: it is not a run. */
static size_t run_of(struct msghdr *message)
{
    for (struct cmsghdr *each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each)) {
        int size;
        if (each->cmsg_level != IPPROTO_UDP || each->cmsg_type != UDP_GRO || each->cmsg_len < CMSG_LEN(sizeof size))
            continue;
        memcpy(&size, CMSG_DATA(each), sizeof size);
        return size > 0 ? (size_t)size : 0;
    }
    return 0;
}

union ancillary {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

static unsigned socket_poll(struct port *port, unsigned queue)
{
    (void)queue;
    static _Thread_local struct arrived *arrived;
    struct tunnel_socket *socket = (struct tunnel_socket *)port;
    struct mmsghdr messages[READS];
    struct sockaddr_storage names[READS];
    union ancillary ancillary[READS];
    struct iovec iov[READS];
    uint8_t *pool = end_pool();
    if (!arrived)
        arrived = malloc(READS * RUN_MAX * sizeof *arrived);
    if (!pool || !arrived)
        return 0;
    memset(messages, 0, sizeof messages);
    for (unsigned i = 0; i < READS; i++) {
        iov[i] = (struct iovec){pool + i * END_SLOT, END_SLOT};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &names[i],
            .msg_namelen = sizeof names[i],
            .msg_iov = &iov[i],
            .msg_iovlen = 1,
            .msg_control = &ancillary[i],
            .msg_controllen = sizeof ancillary[i],
        };
    }
    atomic_store(&socket->reading, true);
    int got = -1;
    for (unsigned tries = 0; got < 0 && tries < BATCH; tries++) {
        got = recvmmsg(socket->fd, messages, READS, MSG_DONTWAIT, NULL);
        if (got < 0 && errno == EAGAIN)
            break;
    }
    unsigned count = 0;
    for (int i = 0; i < got; i++) {
        uint8_t *bytes = iov[i].iov_base;
        size_t len = messages[i].msg_len, run = run_of(&messages[i].msg_hdr);
        if (messages[i].msg_hdr.msg_flags & MSG_TRUNC) {
            refuse_datagram(socket, &socket->stats.truncated, &socket->truncated, "that are cut short");
            continue;
        }
        if (!run || len < run)
            run = len;
        unsigned most = count + RUN_MAX;
        size_t at = 0;
        do {
            size_t each = len - at < run ? len - at : run;
            if (take(socket, &names[i], bytes + at, each, &arrived[count]))
                count++;
            at += run;
        } while (at < len && count < most);
    }
    atomic_fetch_add(&socket->read, got > 0 ? (unsigned long)got : 0);
    atomic_store(&socket->reading, false);
    deliver_all(arrived, count);
    return got > 0 ? (unsigned)got : 0;
}

/* A SIGBUS while the frames of a tunnel were delivered: in the memory of a port of its wire. */
static bool socket_faulted(struct port *port, const void *address)
{
    struct tunnel_socket *socket = (struct tunnel_socket *)port;
    bool found = false;
    for (unsigned i = 0; i < TUNNEL_BUCKETS; i++)
        for (struct tunnel_port *each = socket->buckets[i]; each; each = each->next)
            found |= wire_faulted(&each->port, address);
    return found;
}

static unsigned socket_receive(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    (void)queue;
    (void)frames;
    port->stats.no_peer += n; /* it is in no wire */
    return n;
}

const struct port_ops tunnel_socket_ops = {
    .size = sizeof(struct tunnel_socket),
    .receive = socket_receive,
    .poll = socket_poll,
    .faulted = socket_faulted,
};

/* -- for the judge of CCMs ---------------------------------------------------------------------------------------- */

bool tunnel_socket_is_quiet(struct tunnel_socket *socket)
{
    struct pollfd waits = {.fd = socket->fd, .events = POLLIN};
    return poll(&waits, 1, 0) == 0 && !atomic_load(&socket->reading);
}

unsigned long tunnel_socket_backlog(struct tunnel_socket *socket)
{
    uint32_t memory[SK_MEMINFO_VARS] = {0};
    socklen_t len = sizeof memory;
    if (getsockopt(socket->fd, SOL_SOCKET, SO_MEMINFO, memory, &len))
        memory[SK_MEMINFO_RMEM_ALLOC] = 1u << 26;
    return memory[SK_MEMINFO_RMEM_ALLOC] / SKB_MIN + READS;
}

/* -- changes ------------------------------------------------------------------------------------------------------ */

struct tunnel_socket *tunnel_socket_find(uint32_t id)
{
    struct tunnel_socket *socket = sockets;
    while (socket && socket->id != id)
        socket = socket->next;
    return socket;
}

int tunnel_socket_join(struct tunnel_socket *socket, struct tunnel_port *tunnel)
{
    bool vni_is_known;
    if (find(socket, tunnel->vni, &tunnel->remote, &vni_is_known))
        return EEXIST;
    if (!socket->users && port_watch(&socket->port, &socket->watch, socket->fd, 0, EPOLLIN))
        return errno;
    socket->quiet_ns = tunnel_now_ns() + QUIET_NS;
    struct tunnel_port **bucket = bucket_of(socket, tunnel->vni);
    tunnel->socket = socket;
    tunnel->next = *bucket;
    *bucket = tunnel;
    socket->users++;
    return 0;
}

void tunnel_socket_leave(struct tunnel_port *tunnel)
{
    struct tunnel_port **at = bucket_of(tunnel->socket, tunnel->vni);
    while (*at != tunnel)
        at = &(*at)->next;
    *at = tunnel->next;
    if (!--tunnel->socket->users)
        worker_remove_port(&tunnel->socket->port); /* what comes now is for the next who reads it */
}

int tunnel_socket_add(uint32_t id, int fd)
{
    if (tunnel_socket_find(id))
        return EEXIST;
    struct port *port = port_make(0, &tunnel_socket_ops, 1); /* it is not entered: no request names it as a port */
    if (!port)
        return errno;
    struct tunnel_socket *socket = (struct tunnel_socket *)port;
    socket->id = id;
    socket->fd = fd;
    port->started = true;
    port->worker = &workers[0];
    socket->next = sockets;
    sockets = socket;
    return 0;
}

int tunnel_socket_remove(uint32_t id)
{
    struct tunnel_socket **at = &sockets;
    while (*at && (*at)->id != id)
        at = &(*at)->next;
    struct tunnel_socket *socket = *at;
    if (!socket)
        return ENOENT;
    if (socket->users)
        return EBUSY;
    *at = socket->next;
    close(socket->fd);
    port_free(&socket->port);
    return 0;
}
