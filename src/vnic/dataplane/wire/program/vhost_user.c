/* A port's vhost-user socket: the front-end (control) hands rings over and takes them back. The main thread runs it;
 * it takes the worker's lock for whatever the worker could be using.
 *
 * A message that breaks the protocol ends the port (PORT_LOST with EPROTO). One that cannot be done is refused if the
 * front-end asked for an answer, and ends the port if not. */
#include "vhost_user.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "doorbell.h"
#include "main_loop.h"
#include "table.h"
#include "vhost_port.h"
#include "wake.h"
#include "worker.h"

#pragma GCC diagnostic ignored "-Wsign-compare" /* musl's CMSG_NXTHDR */

#define FEATURES                                                                                                       \
    (VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_MTU | VIRTIO_NET_F_GUEST_TSO4 |                         \
     VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN | VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 |              \
     VIRTIO_NET_F_HOST_ECN | VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_MQ |                  \
     VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_IN_ORDER |                            \
     VHOST_USER_F_PROTOCOL_FEATURES)
#define PROTOCOL_FEATURES (VU_P_MQ | VU_P_RARP | VU_P_REPLY_ACK | VU_P_MTU)

const uint64_t vhost_user_features = FEATURES, vhost_user_protocol_features = PROTOCOL_FEATURES;

/* A message while it arrives. */
struct vhost_input {
    struct vu_header header;
    union vu_payload payload;
    uint32_t have; /* bytes of both */
    unsigned fd_count;
    int fds[VU_FDS_MAX];
};

/* What a handler finds wrong. */
struct fault_text {
    char text[160];
};

#define TURN_MESSAGES 64 /* of one socket before the others get a turn */

/* -- rings ---------------------------------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

struct placement {
    struct vhost_ring *ring;
    struct ring_desc *desc;
    struct ring_avail *avail;
    struct ring_used *used;
};

/* The front-end's address and ours differ by any number, since it chooses the former: ours is what is accessed. */
static void *locate(const struct memory *memory, uint64_t address, size_t bytes, unsigned align)
{
    void *ours = memory_user(memory, address, bytes);
    return (uintptr_t)ours % align ? NULL : ours;
}

/* Where the areas are; false: not within memory, or not aligned. */
static bool place(const struct vhost_port *vhost, struct vhost_ring *ring, struct placement *placement)
{
    const struct memory *memory = vhost->memory;
    bool event_idx = vhost->features & VIRTIO_F_EVENT_IDX;
    placement->ring = ring;
    placement->desc = locate(memory, ring->desc, ring_desc_bytes(ring->size), RING_ALIGN_DESC);
    placement->avail = locate(memory, ring->avail, ring_avail_bytes(ring->size, event_idx), RING_ALIGN_AVAIL);
    placement->used = locate(memory, ring->used, ring_used_bytes(ring->size, event_idx), RING_ALIGN_USED);
    return placement->desc && placement->avail && placement->used;
}

static void begin(void *context)
{
    struct placement *placement = context;
    ring_start(&placement->ring->ring, placement->desc, placement->avail, placement->used, placement->ring->size);
}

static void allow_kicks(void *context)
{
    ring_set_kicks(context, true);
}

/* Start a stopped ring once it has memory, size, addresses and kick, in whatever order they came. Locked. */
static bool start_if_complete(struct vhost_port *vhost, unsigned index, struct fault_text *why)
{
    struct vhost_ring *ring = &vhost->rings[index];
    struct placement placement;
    if (ring->ring.state != RING_STOPPED || ring->kick < 0 || !ring->size || !ring->addressed || !vhost->memory)
        return true;
    if (!place(vhost, ring, &placement)) {
        snprintf(why->text, sizeof why->text, "ring %u lies outside of memory or is not aligned", index);
        return false;
    }
    ring->ring.memory = vhost->memory;
    ring->ring.event_idx = vhost->features & VIRTIO_F_EVENT_IDX;
    ring->ring.indirect = vhost->features & VIRTIO_F_INDIRECT_DESC;
    ring->ring.more = false;
    vhost->port.sources[index / 2].parts = 0;
    if (!fault_guarded(begin, &placement)) {
        vhost_break(vhost, index, "guest memory that its file does not hold any more (SIGBUS)");
        return true;
    }
    ring->watch.room = !(index & 1);
    ring->watch.drain = (uint8_t)wake_kind(ring->kick);
    if (port_watch(&vhost->port, &ring->watch, ring->kick, index / 2, EPOLLIN)) {
        ring->ring.state = RING_STOPPED;
        snprintf(why->text, sizeof why->text, "the kick descriptor of ring %u cannot be watched: %s", index,
                 strerror(errno));
        return false;
    }
    vhost_rings_changed(vhost);
    if (index & 1)
        port_run(&vhost->port, index / 2);
    else
        wire_has_room(&vhost->port, index / 2);
    return true;
}

/* The ring is not accessed any more. Locked. */
static void stop(struct vhost_port *vhost, unsigned index)
{
    struct vhost_ring *ring = &vhost->rings[index];
    if (ring->ring.state == RING_STOPPED)
        return;
    port_watch(&vhost->port, &ring->watch, ring->kick, index / 2, 0);
    /* The next user of the ring may wait for kicks. One that is disabled may be freed memory by now. */
    if (ring->ring.state == RING_STARTED && ring->ring.enabled)
        fault_guarded(allow_kicks, &ring->ring);
    ring->ring.state = RING_STOPPED;
    vhost_rings_changed(vhost);
    if (!(index & 1))
        wire_has_room(&vhost->port, index / 2); /* those who wait for it look again */
}

static void forget(struct vhost_port *vhost, unsigned index)
{
    struct vhost_ring *ring = &vhost->rings[index];
    stop(vhost, index);
    close_fd(&ring->kick);
    close_fd(&ring->ring.call);
    close_fd(&ring->err);
    ring->size = 0;
    ring->addressed = ring->ring.enabled = false;
}

/* Set up anew, from the beginning if it runs: what is told of a ring that runs makes it wait for its kick again, as
 * vnic.protocol.vhost_user.rings explains. */
static void set_up_anew(struct vhost_port *vhost, unsigned index)
{
    if (vhost->rings[index].ring.state == RING_STOPPED)
        return;
    stop(vhost, index);
    close_fd(&vhost->rings[index].kick);
}

/* -- handlers: false: it cannot be done (why) ------------------------------------------------------------------- */

static bool set_features(struct vhost_port *vhost, uint64_t features, struct fault_text *why)
{
    if (features & ~FEATURES) {
        snprintf(why->text, sizeof why->text, "features %#llx that are not offered",
                 (unsigned long long)(features & ~FEATURES));
        return false;
    }
    uint64_t ring_features = VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;
    if ((features ^ vhost->features) & ring_features)
        for (unsigned i = 0; i < 2 * vhost->port.queues; i++)
            set_up_anew(vhost, i);
    vhost->features = features;
    vhost->header_bytes = features & (VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) ? 12 : 10;
    vhost->mergeable = features & VIRTIO_NET_F_MRG_RXBUF;
    vhost->tx_offload = features & VIRTIO_NET_F_CSUM;
    vhost->rx_offload = features & VIRTIO_NET_F_GUEST_CSUM;
    uint8_t ecn = features & VIRTIO_NET_F_GUEST_ECN ? NET_GSO_ECN : 0;
    vhost->rx_gso = 0;
    if (features & VIRTIO_NET_F_GUEST_TSO4)
        vhost->rx_gso |= 1u << gso_bit(NET_GSO_TCPV4) | 1u << gso_bit(NET_GSO_TCPV4 | ecn);
    if (features & VIRTIO_NET_F_GUEST_TSO6)
        vhost->rx_gso |= 1u << gso_bit(NET_GSO_TCPV6) | 1u << gso_bit(NET_GSO_TCPV6 | ecn);
    bool protocol = features & VHOST_USER_F_PROTOCOL_FEATURES;
    if (!protocol) /* rings are enabled from the start then */
        for (unsigned i = 0; i < 2 * vhost->port.queues; i++)
            vhost->rings[i].ring.enabled = true;
    vhost->protocol = protocol;
    vhost_rings_changed(vhost);
    return true;
}

static bool set_memory(struct vhost_port *vhost, const struct vhost_input *input, struct fault_text *why)
{
    struct region_request requests[REGIONS_MAX];
    const struct vu_memory *table = &input->payload.memory;
    for (unsigned i = 0; i < table->count; i++) {
        const struct vu_region *region = &table->regions[i];
        requests[i] = (struct region_request){region->guest, region->size, region->user, region->offset, input->fds[i]};
    }
    struct memory *memory = memory_map(requests, table->count, why->text, sizeof why->text), *before = vhost->memory;
    if (!memory)
        return false;
    vhost->memory = memory;
    bool good = true;
    for (unsigned i = 0; i < 2 * vhost->port.queues; i++) {
        struct vhost_ring *ring = &vhost->rings[i];
        struct placement placement;
        if (ring->ring.state == RING_STARTED) { /* it goes on where it is, in the new mapping */
            if (place(vhost, ring, &placement)) {
                ring->ring.memory = memory;
                ring->ring.desc = placement.desc;
                ring->ring.avail = placement.avail;
                ring->ring.used = placement.used;
                ring->ring.low = ring->ring.size_here = 0;
            } else {
                snprintf(why->text, sizeof why->text, "a memory table without the memory of ring %u, which runs", i);
                ring->ring.state = RING_STOPPED; /* not touched again: its memory is unmapped soon */
                port_watch(&vhost->port, &ring->watch, ring->kick, i / 2, 0);
                vhost_rings_changed(vhost);
                good = false;
            }
        } else if (!start_if_complete(vhost, i, why)) {
            good = false;
        }
    }
    memory_discard(before);
    return good;
}

static bool set_addresses(struct vhost_port *vhost, const struct vu_ring_addresses *told, struct fault_text *why)
{
    struct vhost_ring *ring = &vhost->rings[told->index];
    if (told->flags & 1) {
        snprintf(why->text, sizeof why->text, "dirty logging, which is not offered");
        return false;
    }
    set_up_anew(vhost, told->index);
    ring->desc = told->desc;
    ring->avail = told->avail;
    ring->used = told->used;
    ring->addressed = true;
    return start_if_complete(vhost, told->index, why);
}

static bool set_size(struct vhost_port *vhost, const struct vu_ring_state *told, struct fault_text *why)
{
    if (!told->number || told->number > RING_SIZE_MAX || told->number & (told->number - 1)) {
        snprintf(why->text, sizeof why->text, "a size of %u for ring %u", told->number, told->index);
        return false;
    }
    set_up_anew(vhost, told->index);
    vhost->rings[told->index].size = told->number;
    return start_if_complete(vhost, told->index, why);
}

static void set_enabled(struct vhost_port *vhost, const struct vu_ring_state *told)
{
    vhost->rings[told->index].ring.enabled = told->number == 1;
    vhost_rings_changed(vhost);
    if (told->index & 1)
        port_run(&vhost->port, told->index / 2);
    else
        wire_has_room(&vhost->port, told->index / 2);
}

/* Descriptors: the ring owns it from now on; -1: none. */
static bool set_kick(struct vhost_port *vhost, unsigned index, int fd, struct fault_text *why)
{
    struct vhost_ring *ring = &vhost->rings[index];
    if (fd < 0) {
        snprintf(why->text, sizeof why->text, "ring %u without a kick descriptor: rings are not polled", index);
        return false;
    }
    bool running = ring->ring.state == RING_STARTED;
    port_watch(&vhost->port, &ring->watch, ring->kick, index / 2, 0);
    close_fd(&ring->kick);
    ring->kick = fd;
    if (ring->ring.state == RING_BROKEN)
        ring->ring.state = RING_STOPPED; /* started again by the front-end */
    if (!running)
        return start_if_complete(vhost, index, why);
    ring->watch.drain = (uint8_t)wake_kind(fd);
    if (port_watch(&vhost->port, &ring->watch, fd, index / 2, EPOLLIN)) {
        snprintf(why->text, sizeof why->text, "the kick descriptor of ring %u cannot be watched: %s", index,
                 strerror(errno));
        return false;
    }
    return true;
}

static void set_call(struct vhost_port *vhost, unsigned index, int fd)
{
    struct ring *ring = &vhost->rings[index].ring;
    close_fd(&ring->call);
    ring->call = fd;
    ring->call_kind = (uint8_t)wake_kind(fd);
    if (fd >= 0 && ring->state == RING_STARTED)
        wake_write(fd, ring->call_kind); /* what was signalled to the old one may not have been seen */
}

/* SEND_RARP: the guest has moved here; tell the network where (QEMU's announce_self_create). */
static void announce(struct vhost_port *vhost, const uint8_t *mac)
{
    uint8_t packet[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, [12] = 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
    memcpy(packet + 6, mac, 6);
    memcpy(packet + 22, mac, 6);
    memcpy(packet + 32, mac, 6);
    struct iovec iov = {packet, sizeof packet};
    struct frame frame = {.iov = &iov, .iovcnt = 1, .len = sizeof packet};
    wire_inject(&vhost->port, 0, INJECT_IN, &frame);
}

/* -- messages ------------------------------------------------------------------------------------------------- */

/* The legal payload sizes and numbers of descriptors of each request. */
static const struct rule {
    uint16_t least, most;
    uint8_t fds;
    bool known, ring; /* ring: the payload begins with a ring's index */
} rules[] = {
    [VU_GET_FEATURES] = {.known = true},
    [VU_SET_FEATURES] = {8, 8, .known = true},
    [VU_SET_OWNER] = {.known = true},
    [VU_RESET_OWNER] = {.known = true},
    [VU_SET_MEM_TABLE] = {8, sizeof(struct vu_memory), VU_FDS_MAX, .known = true},
    [VU_SET_VRING_NUM] = {8, 8, .known = true, .ring = true},
    [VU_SET_VRING_ADDR] = {40, 40, .known = true, .ring = true},
    [VU_SET_VRING_BASE] = {8, 8, .known = true, .ring = true},
    [VU_GET_VRING_BASE] = {8, 8, .known = true, .ring = true},
    [VU_SET_VRING_KICK] = {8, 8, 1, .known = true, .ring = true},
    [VU_SET_VRING_CALL] = {8, 8, 1, .known = true, .ring = true},
    [VU_SET_VRING_ERR] = {8, 8, 1, .known = true, .ring = true},
    [VU_GET_PROTOCOL_FEATURES] = {.known = true},
    [VU_SET_PROTOCOL_FEATURES] = {8, 8, .known = true},
    [VU_GET_QUEUE_NUM] = {.known = true},
    [VU_SET_VRING_ENABLE] = {8, 8, .known = true, .ring = true},
    [VU_SEND_RARP] = {8, 8, .known = true},
    [VU_NET_SET_MTU] = {8, 8, .known = true},
};

static bool carries_fd(uint32_t request)
{
    return request == VU_SET_VRING_KICK || request == VU_SET_VRING_CALL || request == VU_SET_VRING_ERR;
}

/* Whether the message is legal; else `why` is set. */
static bool check(const struct vhost_port *vhost, const struct vhost_input *input, struct fault_text *why)
{
    uint32_t request = input->header.request, size = input->header.size;
    const struct rule *rule = request < sizeof rules / sizeof rules[0] ? &rules[request] : NULL;
    if (!rule || !rule->known) {
        snprintf(why->text, sizeof why->text, "request %u, which is not known", request);
        return false;
    }
    if (size < rule->least || size > rule->most) {
        snprintf(why->text, sizeof why->text, "request %u with a payload of %u bytes", request, size);
        return false;
    }
    const union vu_payload *payload = &input->payload;
    unsigned fds = 0;
    if (request == VU_SET_MEM_TABLE) {
        fds = payload->memory.count;
        if (!fds || fds > REGIONS_MAX || size < 8 + fds * sizeof(struct vu_region)) {
            snprintf(why->text, sizeof why->text, "a memory table of %u regions in %u bytes", fds, size);
            return false;
        }
    } else if (carries_fd(request)) {
        fds = !(payload->number & VU_RING_NO_FD);
    }
    if (input->fd_count != fds) {
        snprintf(why->text, sizeof why->text, "request %u with %u descriptors", request, input->fd_count);
        return false;
    }
    if (rule->ring) {
        uint32_t index = carries_fd(request) ? payload->number & VU_RING_MASK : payload->state.index;
        if (index >= 2 * vhost->port.queues) {
            snprintf(why->text, sizeof why->text, "request %u for ring %u, of %u", request, index,
                     2 * vhost->port.queues);
            return false;
        }
    }
    return true;
}

/* The reply that a request has by itself. 0: none. */
static uint32_t answer(struct vhost_port *vhost, const struct vhost_input *input, union vu_payload *reply)
{
    switch (input->header.request) {
    case VU_GET_FEATURES:
        reply->number = FEATURES;
        return 8;
    case VU_GET_PROTOCOL_FEATURES:
        reply->number = PROTOCOL_FEATURES;
        return 8;
    case VU_GET_QUEUE_NUM:
        reply->number = vhost->port.queues;
        return 8;
    case VU_GET_VRING_BASE: {
        unsigned index = input->payload.state.index;
        struct vhost_ring *ring = &vhost->rings[index];
        stop(vhost, index);
        close_fd(&ring->kick);
        close_fd(&ring->ring.call);
        reply->state = (struct vu_ring_state){index, ring->ring.last_avail};
        return sizeof reply->state;
    }
    default:
        return 0;
    }
}

/* Everything else. Descriptors that are taken are set to -1 in the input. */
static bool obey(struct vhost_port *vhost, struct vhost_input *input, struct fault_text *why)
{
    const union vu_payload *payload = &input->payload;
    unsigned index = payload->number & VU_RING_MASK;
    int fd = input->fd_count ? input->fds[0] : -1;
    switch (input->header.request) {
    case VU_SET_FEATURES:
        return set_features(vhost, payload->number, why);
    case VU_SET_PROTOCOL_FEATURES:
        vhost->protocol_features = payload->number & PROTOCOL_FEATURES;
        return true;
    case VU_SET_MEM_TABLE:
        return set_memory(vhost, input, why);
    case VU_SET_VRING_NUM:
        return set_size(vhost, &payload->state, why);
    case VU_SET_VRING_ADDR:
        return set_addresses(vhost, &payload->addresses, why);
    case VU_SET_VRING_BASE:
        /* Where the ring goes on is in its memory (ring_start); this is what GET_VRING_BASE tells of one that was
         * never started. */
        if (payload->state.number > 0xffff) {
            snprintf(why->text, sizeof why->text, "a base of %u", payload->state.number);
            return false;
        }
        if (vhost->rings[payload->state.index].ring.state == RING_STOPPED)
            vhost->rings[payload->state.index].ring.last_avail = (uint16_t)payload->state.number;
        return true;
    case VU_SET_VRING_KICK:
        if (fd >= 0)
            input->fds[0] = -1;
        return set_kick(vhost, index, fd, why);
    case VU_SET_VRING_CALL:
        input->fds[0] = -1;
        set_call(vhost, index, fd);
        return true;
    case VU_SET_VRING_ERR:
        input->fds[0] = -1;
        close_fd(&vhost->rings[index].err);
        vhost->rings[index].err = fd;
        return true;
    case VU_SET_VRING_ENABLE:
        set_enabled(vhost, &payload->state);
        return true;
    case VU_SEND_RARP:
        announce(vhost, (const uint8_t *)&payload->number);
        return true;
    case VU_NET_SET_MTU:
        return true; /* the guest's driver keeps to it; frames of any length pass */
    case VU_RESET_OWNER:
        for (unsigned i = 0; i < 2 * vhost->port.queues; i++)
            stop(vhost, i);
        return true;
    default: /* SET_OWNER */
        return true;
    }
}

static bool send_reply(struct vhost_port *vhost, uint32_t request, const void *payload, uint32_t size)
{
    struct vu_header header = {request, VU_VERSION | VU_REPLY, size};
    struct iovec iov[] = {{&header, sizeof header}, {(void *)(uintptr_t)payload, size}};
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
    /* The front-end reads its answers: a socket without room for 20 bytes is one that it has given up. */
    return sendmsg(vhost->sock, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)(sizeof header + size);
}

static struct main_watch *main_watch_of(struct vhost_port *vhost);

static void lose(struct vhost_port *vhost, int error, const char *text)
{
    struct worker *worker = vhost->port.worker;
    if (error == EPROTO)
        event_log(LOG_WARNING, "port %u: the front-end sent %s", vhost->port.id, text);
    main_watch_remove(main_watch_of(vhost));
    worker_lock(worker);
    for (unsigned i = 0; i < 2 * vhost->port.queues; i++)
        stop(vhost, i);
    event_port_lost(&vhost->port, 0, error);
    worker_unlock(worker);
}

static void drop_input(struct vhost_port *vhost)
{
    struct vhost_input *input = vhost->input;
    if (!input)
        return;
    for (unsigned i = 0; i < input->fd_count; i++)
        if (input->fds[i] >= 0)
            close(input->fds[i]);
    free(input);
    vhost->input = NULL;
}

/* A whole message. False: the port is lost. */
static bool message(struct vhost_port *vhost)
{
    struct vhost_input *input = vhost->input;
    struct worker *worker = vhost->port.worker;
    struct fault_text why = {""};
    uint32_t request = input->header.request;
    bool asked = input->header.flags & VU_NEED_REPLY && vhost->protocol_features & VU_P_REPLY_ACK;
    union vu_payload reply;
    if (!check(vhost, input, &why)) {
        lose(vhost, EPROTO, why.text);
        return false;
    }
    if (request == VU_SET_PROTOCOL_FEATURES) /* User-Mode Linux asks for an answer in this one already */
        asked = input->header.flags & VU_NEED_REPLY && input->payload.number & VU_P_REPLY_ACK;
    worker_lock(worker);
    uint32_t size = answer(vhost, input, &reply);
    bool done = size || obey(vhost, input, &why);
    worker_unlock(worker);
    memory_unmap_discarded();
    if (!size && asked) {
        reply.number = !done;
        size = 8;
        if (!done)
            event_log(LOG_WARNING, "port %u: refused: %s", vhost->port.id, why.text);
    } else if (!done) {
        lose(vhost, EPROTO, why.text);
        return false;
    }
    if (size && !send_reply(vhost, request, &reply, size) && errno != EPIPE && errno != ECONNRESET) {
        lose(vhost, EPROTO, "no room for an answer");
        return false;
    }
    drop_input(vhost);
    return true;
}

/* Read what is missing of the present message, with its descriptors. Bytes; 0: the end of the stream; -1: errno. */
static ssize_t receive(struct vhost_port *vhost)
{
    struct vhost_input *input = vhost->input;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(VU_FDS_MAX * sizeof(int))];
    } control;
    uint32_t head = sizeof input->header;
    uint8_t *to = input->have < head ? (uint8_t *)&input->header + input->have
                                     : (uint8_t *)&input->payload + (input->have - head);
    size_t missing = input->have < head ? head - input->have : head + input->header.size - input->have;
    struct iovec iov = {to, missing};
    struct msghdr received = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t got = recvmsg(vhost->sock, &received, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return got;
    bool too_many = received.msg_flags & MSG_CTRUNC;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(&received); each; each = CMSG_NXTHDR(&received, each)) {
        if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS)
            continue;
        unsigned count = (unsigned)((each->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (unsigned i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(each) + i * sizeof fd, sizeof fd);
            if (input->fd_count < VU_FDS_MAX) {
                input->fds[input->fd_count++] = fd;
            } else {
                close(fd);
                too_many = true;
            }
        }
    }
    if (too_many) {
        errno = EMSGSIZE;
        return -1;
    }
    return got;
}

struct vhost_socket {
    struct main_watch watch;
    struct vhost_port *vhost;
};

static void readable(struct main_watch *watch)
{
    struct vhost_port *vhost = ((struct vhost_socket *)watch)->vhost;
    for (unsigned messages = 0; messages < TURN_MESSAGES;) {
        if (!vhost->input && !(vhost->input = calloc(1, sizeof *vhost->input))) {
            lose(vhost, ENOMEM, "");
            return;
        }
        struct vhost_input *input = vhost->input;
        ssize_t got = receive(vhost);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            if (!input->have)
                drop_input(vhost); /* between messages a port keeps none */
            return;
        }
        if (got == 0 || (got < 0 && errno == ECONNRESET)) {
            /* Control was killed, and the guest must not notice: the rings go on until the port is removed, or the channel
             * ends as well. */
            main_watch_remove(watch);
            drop_input(vhost);
            return;
        }
        if (got < 0) {
            bool illegal = got < 0 && errno == EMSGSIZE;
            lose(vhost, illegal ? EPROTO : errno, "too many descriptors");
            return;
        }
        input->have += (uint32_t)got;
        if (input->have == sizeof input->header) {
            if ((input->header.flags & VU_VERSION_MASK) != VU_VERSION ||
                input->header.size > sizeof input->payload) {
                lose(vhost, EPROTO, "a message of another version, or one that is too long");
                return;
            }
        }
        if (input->have >= sizeof input->header && input->have == sizeof input->header + input->header.size) {
            messages++;
            if (!message(vhost))
                return;
        }
    }
}

/* -- the port ------------------------------------------------------------------------------------------------- */

static struct main_watch *main_watch_of(struct vhost_port *vhost)
{
    return &vhost->socket->watch;
}

int vhost_user_add(struct port *port, const struct port_request *request, char *text, size_t text_size)
{
    struct vhost_port *vhost = vhost_port(port);
    if (request->fd_count != 1) {
        snprintf(text, text_size, "fds: %u, not 1", request->fd_count);
        return EINVAL;
    }
    vhost->rings = calloc(2 * port->queues, sizeof *vhost->rings);
    vhost->socket = calloc(1, sizeof *vhost->socket);
    if (!vhost->rings || !vhost->socket) {
        free(vhost->rings);
        free(vhost->socket);
        snprintf(text, text_size, "%s", strerror(ENOMEM));
        return ENOMEM;
    }
    for (unsigned i = 0; i < 2 * port->queues; i++)
        vhost->rings[i].kick = vhost->rings[i].ring.call = vhost->rings[i].err = -1;
    vhost->header_bytes = 10;
    vhost->sock = request->fds[0];
    *vhost->socket = (struct vhost_socket){{vhost->sock, readable}, vhost};
    port->active = 0;
    int error = main_watch_add(&vhost->socket->watch);
    if (error) {
        free(vhost->rings);
        free(vhost->socket);
        snprintf(text, text_size, "fds: %s", strerror(error));
    }
    return error;
}

void vhost_user_remove(struct port *port)
{
    struct vhost_port *vhost = vhost_port(port);
    main_watch_remove(&vhost->socket->watch);
    doorbell_remove(vhost);
    for (unsigned i = 0; i < 2 * port->queues; i++)
        forget(vhost, i);
    drop_input(vhost);
    close(vhost->sock);
    vhost_set_filter(port, NULL);
    memory_discard(vhost->memory);
    free(vhost->rings);
    free(vhost->socket);
}
