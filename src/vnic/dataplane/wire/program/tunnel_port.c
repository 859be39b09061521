/* A tunnel's port: each frame goes as one VXLAN datagram (RFC 7348) to the peer, which another vnic, the kernel's vxlan and
 * Open vSwitch understand. tunnel_socket.c has what comes from there; see tunnel.h.
 *
 * Frames of equal size that follow each other are given to the kernel as one run (UDP_SEGMENT), which costs it about as
 * much as one datagram. They are copied first: a guest can change them at any time, and what is checked has to be what is
 * sent. */
#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tunnel.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

#define MESSAGES 64u
#define RUN_MAX 64u            /* datagrams of one run (UDP_MAX_SEGMENTS of older kernels) */
#define PACK_BYTES (256u << 10)
#define RETRY_AFTER 65536u     /* datagrams: a path's MTU may grow again */
#define ETHERTYPE_VLAN 0x8100u
#define ETHERTYPE_QINQ 0x88a8u

/* -- what a tunnel's frame is ------------------------------------------------------------------------------------- */

uint64_t tunnel_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint32_t overhead(const struct tunnel_port *tunnel)
{
    return VXLAN_HEADER + (tunnel->key.on ? KEY_TRAILER : 0);
}

uint32_t tunnel_frame_max(const struct tunnel_port *tunnel)
{
    return DATAGRAM_MAX - overhead(tunnel);
}

bool tunnel_is_long(const struct tunnel_port *tunnel, const uint8_t *frame, size_t len)
{
    size_t most = tunnel->port.max_frame;
    unsigned type = (unsigned)frame[12] << 8 | frame[13];
    if (type == ETHERTYPE_VLAN || type == ETHERTYPE_QINQ)
        most += VLAN_TAG;
    return len > most || len > tunnel_frame_max(tunnel);
}

bool tunnel_owns(const struct tunnel_port *tunnel, const uint8_t *frame, size_t len)
{
    return tunnel->mep.mode != CCM_OFF && cfm_is(frame, len) && cfm_level(frame, len) <= tunnel->mep.level;
}

void tunnel_write_header(const struct tunnel_port *tunnel, uint8_t *datagram)
{
    memset(datagram, 0, VXLAN_HEADER);
    datagram[0] = 0x08;
    datagram[4] = (uint8_t)(tunnel->vni >> 16);
    datagram[5] = (uint8_t)(tunnel->vni >> 8);
    datagram[6] = (uint8_t)tunnel->vni;
}

void tunnel_trouble(struct tunnel_port *tunnel, uint64_t *counter)
{
    unsigned number = (unsigned)(counter - &tunnel->stats.ccm_sent);
    ++*counter;
    if (tunnel->told >> number & 1)
        return;
    tunnel->told |= 1u << number;
    event_tunnel_trouble(&tunnel->port, number);
}

int tunnel_send(struct tunnel_port *tunnel, const uint8_t *frame, size_t len)
{
    uint8_t datagram[VXLAN_HEADER + CCM_FRAME + KEY_TRAILER];
    size_t total = VXLAN_HEADER + len;
    int error = 0;
    tunnel_write_header(tunnel, datagram);
    memcpy(datagram + VXLAN_HEADER, frame, len);
    if (tunnel->key.on) {
        pthread_mutex_lock(&tunnel->key.lock);
        key_seal(&tunnel->key, datagram, total);
        total += KEY_TRAILER;
    }
    if (send(tunnel->fd, datagram, total, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        error = errno;
    if (tunnel->key.on)
        pthread_mutex_unlock(&tunnel->key.lock);
    return error;
}

/* -- packing ------------------------------------------------------------------------------------------------------ */

union segment_size {
    char bytes[CMSG_SPACE(sizeof(uint16_t))];
    struct cmsghdr align;
};

/* Datagrams that are sent together, in memory of the thread. */
struct pack {
    unsigned n;         /* messages: a datagram or a run of them each */
    unsigned datagrams; /* in all messages */
    size_t used;
    bool closed; /* the last run ended with a shorter one */
    struct mmsghdr messages[MESSAGES];
    struct iovec iov[MESSAGES];
    union segment_size sizes[MESSAGES];
    uint32_t segment[MESSAGES]; /* bytes of each datagram of the run but the last */
    uint32_t count[MESSAGES];
    uint8_t bytes[PACK_BYTES];
};

static struct pack *thread_pack(void)
{
    static _Thread_local struct pack *pack;
    if (unlikely(!pack))
        pack = malloc(sizeof *pack);
    return pack;
}

static void pack_clear(struct pack *pack)
{
    pack->n = pack->datagrams = 0;
    pack->used = 0;
    pack->closed = true;
}

static bool pack_has_room(const struct pack *pack, size_t datagram)
{
    return pack->n < MESSAGES && pack->used + datagram <= PACK_BYTES;
}

/* Where the next frame is to be written. */
static uint8_t *pack_place(struct pack *pack)
{
    return pack->bytes + pack->used + VXLAN_HEADER;
}

/* One more datagram, whose frame is at pack_place already. */
static void pack_add(const struct tunnel_port *tunnel, struct pack *pack, size_t frame)
{
    uint32_t size = (uint32_t)frame + overhead(tunnel);
    unsigned last = pack->n - 1;
    uint8_t *datagram = pack->bytes + pack->used;
    tunnel_write_header(tunnel, datagram);
    pack->used += size;
    pack->datagrams++;
    if (!pack->closed && size <= pack->segment[last] && pack->count[last] < RUN_MAX &&
        pack->iov[last].iov_len + size <= DATAGRAM_MAX) {
        pack->iov[last].iov_len += size;
        pack->count[last]++;
        pack->closed = size < pack->segment[last];
        return;
    }
    last = pack->n++;
    pack->iov[last] = (struct iovec){datagram, size};
    pack->segment[last] = size;
    pack->count[last] = 1;
    pack->closed = size > tunnel->segment_max;
}

/* The bytes of the datagram at `at` in a run. */
static size_t datagram_bytes(const struct pack *pack, unsigned message, size_t at)
{
    size_t left = pack->iov[message].iov_len - at;
    return left < pack->segment[message] ? left : pack->segment[message];
}

static void seal_all(struct tunnel_port *tunnel, struct pack *pack)
{
    for (unsigned i = 0; i < pack->n; i++)
        for (size_t at = 0, size; at < pack->iov[i].iov_len; at += size) {
            size = datagram_bytes(pack, i, at);
            key_seal(&tunnel->key, (uint8_t *)pack->iov[i].iov_base + at, size - KEY_TRAILER);
        }
}

/* -- sending ------------------------------------------------------------------------------------------------------ */

static void count_sent(struct tunnel_port *tunnel, unsigned datagrams, size_t bytes)
{
    tunnel->port.stats.frames_out += datagrams;
    tunnel->port.stats.bytes_out += bytes - (size_t)datagrams * overhead(tunnel);
}

/* Whether to send the same again: the error tells of an earlier datagram. */
static bool was_earlier(int error, bool *refused)
{
    *refused |= error == ECONNREFUSED;
    return error == ECONNREFUSED || error == EINTR;
}

/* The datagrams of a run one by one. Returns how many are done, sent or not; fewer than all: there is no room. */
static unsigned send_singly(struct tunnel_port *tunnel, struct pack *pack, unsigned message, bool *refused)
{
    uint8_t *bytes = pack->iov[message].iov_base;
    unsigned done = 0, tries = 0;
    for (size_t at = 0; at < pack->iov[message].iov_len;) {
        size_t size = datagram_bytes(pack, message, at);
        if (send(tunnel->fd, bytes + at, size, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
            count_sent(tunnel, 1, size);
        } else {
            if (errno == EAGAIN)
                return done;
            if (was_earlier(errno, refused) && tries++ < RUN_MAX)
                continue;
            tunnel->port.stats.refused++;
        }
        at += size;
        done++;
    }
    return done;
}

/* The kernel does not send the run as one: the datagrams are longer than the path's MTU, or the device cannot. */
static bool is_no_run(int error)
{
    return error == EINVAL || error == EMSGSIZE || error == EIO || error == EOPNOTSUPP || error == ENOPROTOOPT;
}

static void prepare(struct pack *pack)
{
    for (unsigned i = 0; i < pack->n; i++) {
        struct msghdr *message = &pack->messages[i].msg_hdr;
        *message = (struct msghdr){.msg_iov = &pack->iov[i], .msg_iovlen = 1};
        if (pack->count[i] == 1)
            continue;
        uint16_t size = (uint16_t)pack->segment[i];
        message->msg_control = &pack->sizes[i];
        message->msg_controllen = sizeof pack->sizes[i];
        memset(&pack->sizes[i], 0, sizeof pack->sizes[i]);
        struct cmsghdr *only = CMSG_FIRSTHDR(message);
        only->cmsg_level = IPPROTO_UDP;
        only->cmsg_type = UDP_SEGMENT;
        only->cmsg_len = CMSG_LEN(sizeof size);
        memcpy(CMSG_DATA(only), &size, sizeof size);
    }
}

/* Returns how many datagrams are done, sent or not; fewer than all: there is no room for the next one. */
static unsigned send_pack(struct tunnel_port *tunnel, struct pack *pack, bool *refused)
{
    unsigned done = 0, tries = 0;
    for (unsigned at = 0; at < pack->n;) {
        int sent = sendmmsg(tunnel->fd, pack->messages + at, pack->n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            for (unsigned end = at + (unsigned)sent; at < end; at++) {
                count_sent(tunnel, pack->count[at], pack->iov[at].iov_len);
                done += pack->count[at];
            }
            continue;
        }
        int error = errno;
        if (error == EAGAIN)
            return done;
        if (was_earlier(error, refused) && tries++ < MESSAGES)
            continue;
        if (pack->count[at] > 1 && is_no_run(error)) {
            tunnel->segment_max = pack->segment[at] - 1;
            tunnel->until_retry = RETRY_AFTER;
            unsigned singly = send_singly(tunnel, pack, at, refused);
            done += singly;
            if (singly < pack->count[at])
                return done;
        } else {
            tunnel->port.stats.refused += pack->count[at];
            done += pack->count[at];
        }
        at++;
    }
    return done;
}

/* Send what is packed. Returns how many datagrams of its end were not, because there is no room: they are forgotten, and
 * wire_has_room follows. */
static unsigned flush(struct tunnel_port *tunnel, struct pack *pack)
{
    unsigned datagrams = pack->datagrams;
    bool refused = false;
    if (!datagrams)
        return 0;
    prepare(pack);
    if (tunnel->key.on) {
        pthread_mutex_lock(&tunnel->key.lock);
        seal_all(tunnel, pack);
    }
    unsigned done = send_pack(tunnel, pack, &refused);
    if (tunnel->key.on)
        pthread_mutex_unlock(&tunnel->key.lock);
    if (refused)
        mep_refused(tunnel);
    tunnel->until_retry -= done < tunnel->until_retry ? done : tunnel->until_retry;
    if (!tunnel->until_retry)
        tunnel->segment_max = DATAGRAM_MAX;
    pack_clear(pack);
    if (done < datagrams)
        port_watch(&tunnel->port, &tunnel->watch, tunnel->fd, 0, EPOLLIN | EPOLLOUT);
    return datagrams - done;
}

/* -- frames from the wire ----------------------------------------------------------------------------------------- */

/* Copy the frame to where it is packed. NULL, or the counter of what it is dropped for. */
static uint64_t *write_frame(struct tunnel_port *tunnel, struct pack *pack, const struct frame *frame)
{
    uint8_t *place = pack_place(pack);
    if (frame->len > tunnel_frame_max(tunnel))
        return &tunnel->port.stats.too_long;
    size_t at = 0;
    for (uint32_t i = 0; i < frame->iovcnt && at < frame->len; i++) {
        size_t part = frame->iov[i].iov_len < frame->len - at ? frame->iov[i].iov_len : frame->len - at;
        memcpy(place + at, frame->iov[i].iov_base, part);
        at += part;
    }
    if (tunnel_is_long(tunnel, place, frame->len))
        return &tunnel->port.stats.too_long;
    return tunnel_owns(tunnel, place, frame->len) ? &tunnel->port.stats.filtered : NULL;
}

struct parts {
    struct tunnel_port *tunnel;
    struct pack *pack;
    unsigned unsent; /* of those that were taken */
};

static bool add_part(void *context, const struct frame *part)
{
    struct parts *parts = context;
    if (!pack_has_room(parts->pack, part->len + overhead(parts->tunnel)) &&
        (parts->unsent = flush(parts->tunnel, parts->pack)))
        return false;
    uint64_t *dropped = write_frame(parts->tunnel, parts->pack, part);
    if (dropped)
        ++*dropped;
    else
        pack_add(parts->tunnel, parts->pack, part->len);
    return true;
}

/* A frame with something pending, alone in the pack. False: the rest of it waits for room. */
static bool send_pending(struct tunnel_port *tunnel, struct pack *pack, const struct frame *frame, unsigned done)
{
    struct parts parts = {tunnel, pack, 0};
    enum offload_result result = offload_complete(frame, &done, add_part, &parts);
    if (result != OFFLOAD_NO_ROOM)
        parts.unsent = flush(tunnel, pack);
    tunnel->port.stats.bad_offload += result == OFFLOAD_BAD;
    if (!parts.unsent)
        return true;
    /* Those that were taken and not sent are made again. (A checksum is one part that `done` does not count.) */
    return !parts_wait(&tunnel->port, done > parts.unsent ? done - parts.unsent : 0);
}

static unsigned tunnel_receive(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    (void)queue;
    struct tunnel_port *tunnel = (struct tunnel_port *)port;
    struct pack *pack = thread_pack();
    unsigned before = parts_before(port);
    if (!pack) {
        port->stats.no_room += n;
        return n;
    }
    pack_clear(pack); /* what is in it are frames that end before `at` */
    for (unsigned at = 0; at < n; at++) {
        const struct frame *frame = &frames[at];
        bool pending = !frame_is_complete(frame);
        if (pending || !pack_has_room(pack, frame->len + overhead(tunnel))) {
            unsigned unsent = flush(tunnel, pack);
            if (unsent)
                return at - unsent;
        }
        if (pending) {
            if (!send_pending(tunnel, pack, frame, at ? 0 : before))
                return at;
            continue;
        }
        uint64_t *dropped = write_frame(tunnel, pack, frame);
        if (!dropped) {
            pack_add(tunnel, pack, frame->len);
            continue;
        }
        unsigned unsent = flush(tunnel, pack); /* those before it are not counted twice */
        if (unsent)
            return at - unsent;
        ++*dropped;
    }
    return n - flush(tunnel, pack);
}

/* -- the send socket, and frames that wait ------------------------------------------------------------------------ */

/* What ICMP says of what was sent, and datagrams that come there: they are not of the tunnel. False: more may wait. */
static bool drain(struct tunnel_port *tunnel)
{
    for (unsigned i = 0; i < BATCH; i++) {
        uint8_t byte;
        if (recv(tunnel->fd, &byte, sizeof byte, MSG_DONTWAIT) >= 0)
            continue;
        if (errno == EAGAIN)
            return true;
        if (errno == ECONNREFUSED)
            mep_refused(tunnel);
    }
    return false;
}

static unsigned tunnel_poll(struct port *port, unsigned queue)
{
    struct tunnel_port *tunnel = (struct tunnel_port *)port;
    unsigned moved = drain(tunnel) ? 0 : 1;
    backlog_send(&tunnel->backlog, port, queue, &moved);
    return moved;
}

static void tunnel_writable(struct port *port, unsigned queue)
{
    struct tunnel_port *tunnel = (struct tunnel_port *)port;
    port_watch(port, &tunnel->watch, tunnel->fd, queue, EPOLLIN);
    wire_has_room(port, queue);
}

/* -- add and remove ----------------------------------------------------------------------------------------------- */

static int check(const struct port_request *request, const struct port *port, char *text, size_t text_size)
{
    const struct message_port_add *body = request->body;
    struct tunnel_config config;
    if (request->fd_count != 1 || port->queues != 1)
        return end_refuse(EINVAL, text, text_size, "fds: %u for %u queues of a tunnel", request->fd_count,
                          port->queues);
    if (port->flags)
        return end_refuse(EINVAL, text, text_size, "flags: %#x", port->flags);
    if (body->own_len != sizeof config)
        return end_refuse(EINVAL, text, text_size, "own_len: %u bytes", body->own_len);
    struct sockaddr_storage remote = {0};
    if (body->dest_len > sizeof remote)
        return end_refuse(EINVAL, text, text_size, "dest_len: %u bytes", body->dest_len);
    memcpy(&remote, request->dest, body->dest_len);
    if (!(remote.ss_family == AF_INET && body->dest_len == sizeof(struct sockaddr_in)) &&
        !(remote.ss_family == AF_INET6 && body->dest_len == sizeof(struct sockaddr_in6)))
        return end_refuse(EINVAL, text, text_size, "dest: family %u, %u bytes", remote.ss_family, body->dest_len);
    memcpy(&config, request->own, sizeof config);
    if (config.vni >> 24)
        return end_refuse(EINVAL, text, text_size, "vni: %u", config.vni);
    if (config.mode > CCM_AUTO)
        return end_refuse(EINVAL, text, text_size, "mode: %u", config.mode);
    if (config.mode == CCM_OFF ? config.interval_us : !ccm_interval_code(config.interval_us))
        return end_refuse(EINVAL, text, text_size, "interval_us: %u", config.interval_us);
    if (config.level > 7)
        return end_refuse(EINVAL, text, text_size, "level: %u", config.level);
    if (!config.mep || config.mep > CCM_MEP_MAX)
        return end_refuse(EINVAL, text, text_size, "mep: %u", config.mep);
    if (config.status < INTERFACE_UP || config.status > INTERFACE_LOWER_LAYER_DOWN)
        return end_refuse(EINVAL, text, text_size, "status: %u", config.status);
    if (config.key_length && config.key_length != KEY_BYTES)
        return end_refuse(EINVAL, text, text_size, "key_length: %u", config.key_length);
    if (config.state.heard > CCM_LOST)
        return end_refuse(EINVAL, text, text_size, "heard: %u", config.state.heard);
    if (config.state.heard == CCM_HEARD && !ccm_interval_code(config.state.remote_interval_us))
        return end_refuse(EINVAL, text, text_size, "remote_interval_us: %u", config.state.remote_interval_us);
    return 0;
}

static int tunnel_add(struct port *port, const struct port_request *request, char *text, size_t text_size)
{
    struct tunnel_port *tunnel = (struct tunnel_port *)port;
    struct tunnel_config config;
    int error = check(request, port, text, text_size);
    if (error)
        return error;
    memcpy(&config, request->own, sizeof config);
    memcpy(&tunnel->remote, request->dest, request->body->dest_len);
    tunnel->fd = request->fds[0];
    tunnel->vni = config.vni;
    tunnel->segment_max = DATAGRAM_MAX;
    tunnel->key = (struct key){
        .on = config.key_length,
        .mep = config.mep,
        .counter = config.state.counter,
        .remote_counter = config.state.remote_counter,
        .remote_window = config.state.remote_window,
    };
    memcpy(tunnel->key.bytes, config.key, KEY_BYTES);
    tunnel->mep = (struct mep){
        .mode = config.mode,
        .level = config.level,
        .status = config.status,
        .id = config.mep,
        .interval_us = config.interval_us,
        .interval_ns = ccm_interval_ns(config.interval_us),
        .state = config.state,
    };
    memcpy(tunnel->mep.maid, config.maid, MAID_BYTES);
    memcpy(tunnel->mep.mac, config.mac, sizeof config.mac);
    mep_lock_init(&tunnel->key.lock);
    mep_lock_init(&tunnel->mep.lock);
    struct tunnel_socket *socket = tunnel_socket_find(config.socket);
    if (!socket)
        return end_refuse(ENOENT, text, text_size, "socket: there is no socket %u", config.socket);
    if (port_watch(port, &tunnel->watch, tunnel->fd, 0, EPOLLIN))
        return end_refuse(errno, text, text_size, "fds: %s", strerror(errno));
    error = tunnel_socket_join(socket, tunnel);
    if (error) {
        port_watch(port, &tunnel->watch, tunnel->fd, 0, 0);
        return end_refuse(error, text, text_size, "vni: %u at socket %u: %s", config.vni, config.socket,
                          error == EEXIST ? "this peer is there" : strerror(error));
    }
    port->started = true; /* its CCMs pass, whether it is in a wire or not */
    mep_add(tunnel);
    return 0;
}

static size_t tunnel_state(struct port *port, uint8_t *data)
{
    struct tunnel_port *tunnel = (struct tunnel_port *)port;
    mep_remove(tunnel); /* what it sends afterwards would not be in the state */
    struct tunnel_state state = tunnel->mep.state;
    state.counter = tunnel->key.counter;
    state.remote_counter = tunnel->key.remote_counter;
    state.remote_window = tunnel->key.remote_window;
    memcpy(data, &state, sizeof state);
    return sizeof state;
}

static void tunnel_remove(struct port *port)
{
    struct tunnel_port *tunnel = (struct tunnel_port *)port;
    tunnel_socket_leave(tunnel);
    backlog_return(&tunnel->backlog, port, 0);
    close(tunnel->fd);
}

const struct port_ops tunnel_port_ops = {
    .size = sizeof(struct tunnel_port),
    .add = tunnel_add,
    .state = tunnel_state,
    .remove = tunnel_remove,
    .receive = tunnel_receive,
    .poll = tunnel_poll,
    .writable = tunnel_writable,
};
