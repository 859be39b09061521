/* Frames and rings: chains of a transmit ring become frames of the wire, and frames go into the chains of a receive
 * ring. The worker calls it through vhost_port_ops.
 *
 * A turn works on local copies of the ring's indices and stores them at its end. So a turn that a fault in guest memory
 * ends half-way has not happened, as far as the rings are concerned. */
#include "vhost_port.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "copy.h"
#include "wake.h"

#define BATCH_BYTES (256u * 1024u)   /* what one turn takes from a ring: some 50 us of copies */
#define SEGMENT_BYTES 256u           /* a segment costs at least as much as that many bytes of copies */
#define BATCH_IOV (2u * FRAME_IOV)
#define BATCH_DESCRIPTORS 4096u      /* what one turn walks through in a receive ring */
#define HEADER_MAX 12u
#define AHEAD 16u /* frames whose places are found before the first of them is copied */

/* What a turn of a transmit ring holds. */
struct batch {
    struct frame frames[BATCH];
    uint16_t heads[BATCH];      /* of the chains */
    uint8_t chain_of[BATCH];    /* by frame: its chain */
    struct {
        uint8_t chain;
        bool is_short;
    } dropped[BATCH];           /* chains that hold no frame that may pass, ascending */
    struct iovec iov[BATCH_IOV + BATCH]; /* chains of any shape end below BATCH_IOV; simple ones may follow */
};

/* One turn of a receive ring. */
struct turn {
    struct vhost_port *vhost;
    struct vhost_ring *ring;
    const char *why;        /* the ring is broken */
    unsigned descriptors;   /* looked at by now */
    uint16_t next;          /* the next chain, and the next element of the used ring */
    uint64_t frames, bytes; /* delivered */
};

static _Thread_local struct batch batch;
static _Thread_local struct iovec merged[BATCH_IOV];

void vhost_break(struct vhost_port *vhost, unsigned index, const char *why)
{
    struct vhost_ring *ring = &vhost->rings[index];
    if (ring->ring.state == RING_BROKEN)
        return;
    ring->ring.state = RING_BROKEN;
    port_watch(&vhost->port, &ring->watch, ring->kick, index / 2, 0);
    if (ring->err >= 0)
        wake_write(ring->err, wake_kind(ring->err));
    event_ring_broken(&vhost->port, index, why);
    vhost_rings_changed(vhost);
    if (!(index & 1))
        wire_has_room(&vhost->port, index / 2); /* those who wait for room drop their frames now */
}

void vhost_rings_changed(struct vhost_port *vhost)
{
    uint32_t active = 0;
    while (active < vhost->port.queues) {
        const struct ring *ring = &vhost->rings[2 * active].ring;
        if (ring->state == RING_STOPPED || !ring->enabled)
            break;
        active++;
    }
    vhost->port.active = active;
}

static void interrupt(struct vhost_port *vhost, unsigned index)
{
    struct ring *ring = &vhost->rings[index].ring;
    if (ring_wants_interrupt(ring) && ring->call >= 0 && !wake_write(ring->call, ring->call_kind))
        vhost_break(vhost, index, "its call descriptor blocks");
}

/* -- from the guest ------------------------------------------------------------------------------------------- */

/* Cut the header off the front of a chain's pieces. Returns the first piece of the frame. */
static unsigned take_header(struct iovec *iov, unsigned count, unsigned bytes, uint8_t *header)
{
    unsigned at = 0, i = 0;
    while (at < bytes && i < count) {
        size_t part = iov[i].iov_len < bytes - at ? iov[i].iov_len : bytes - at;
        memcpy(header + at, iov[i].iov_base, part);
        at += (unsigned)part;
        iov[i].iov_base = (uint8_t *)iov[i].iov_base + part;
        iov[i].iov_len -= part;
        if (!iov[i].iov_len)
            i++;
    }
    return i;
}

/* Chains as frames: how they are found, for vhost_poll. */
struct gathered {
    unsigned chains, frames, dropped, iov;
    uint64_t bytes;
    const char *why;
};

/* Whether a frame of `len` bytes may pass; if not, its chain is returned unsent, and counted then: it is found again if
 * the frames before it have to wait. */
static inline bool length_is_right(const struct port *port, struct gathered *to, uint64_t len)
{
    bool is_short = len < FRAME_MIN;
    if (likely(!is_short && len <= port->max_frame))
        return true;
    batch.dropped[to->dropped].chain = (uint8_t)to->chains;
    batch.dropped[to->dropped++].is_short = is_short;
    return false;
}

/* What the segments of a frame count for, as bytes. A guest chooses their size, so that one frame may become
 * OFFLOAD_SEGMENTS of them, and the other wires of this worker wait meanwhile. */
static uint64_t segments_cost(const struct frame *frame)
{
    unsigned size = le16toh(frame->hdr.gso_size);
    unsigned segments = size ? frame->len / size + 1 : 1;
    return (uint64_t)SEGMENT_BYTES * (segments < OFFLOAD_SEGMENTS ? segments : OFFLOAD_SEGMENTS);
}

/* One chain of any shape. */
static bool gather_chain(struct vhost_port *vhost, struct ring *ring, uint16_t at, struct gathered *to)
{
    struct chain chain;
    struct iovec *iov = batch.iov + to->iov;
    uint8_t header[HEADER_MAX];
    if (!ring_walk(ring, at, iov, FRAME_IOV, &chain, &to->why))
        return false;
    if (chain.readable_bytes < vhost->header_bytes) {
        to->why = "a packet without room for its virtio_net_hdr";
        return false;
    }
    batch.heads[to->chains] = chain.head;
    to->bytes += (uint64_t)chain.descriptors * 64; /* a descriptor costs at least as much as that many bytes */
    uint64_t len = chain.readable_bytes - vhost->header_bytes;
    if (length_is_right(&vhost->port, to, len)) {
        unsigned first = take_header(iov, chain.readable, vhost->header_bytes, header);
        struct frame *frame = &batch.frames[to->frames];
        frame->iov = iov + first;
        frame->iovcnt = chain.readable - first;
        frame->len = (uint32_t)len;
        if (vhost->tx_offload)
            memcpy(&frame->hdr, header, sizeof frame->hdr);
        else
            memset(&frame->hdr, 0, sizeof frame->hdr);
        batch.chain_of[to->frames++] = (uint8_t)to->chains;
        to->iov += chain.readable;
        to->bytes += len;
        if (frame->hdr.gso_type != NET_GSO_NONE)
            to->bytes += segments_cost(frame);
    }
    to->chains++;
    return true;
}

/* The chains behind `first`, up to `count`, as long as they are of the common kind: one readable buffer in the region of
 * the last one. What the loop needs is in locals, because a store through a pointer could change everything else. */
static void gather_simple(struct vhost_port *vhost, const struct ring *ring, uint16_t first, unsigned count,
                          struct gathered *to)
{
    const struct ring_desc *desc = ring->desc;
    const uint16_t *heads = ring->avail->ring;
    const uint64_t low = ring->low, size = ring->size_here;
    uint8_t *const base = ring->base;
    const unsigned mask = ring->mask, header_bytes = vhost->header_bytes, most = vhost->port.max_frame;
    const bool offload = vhost->tx_offload;
    unsigned chains = to->chains, frames = to->frames, pieces = to->iov;
    uint64_t bytes = to->bytes;
    for (; chains < count && bytes < BATCH_BYTES; chains++) {
        uint16_t head = load_relaxed(&heads[(uint16_t)(first + chains) & mask]);
        if (unlikely(head > mask))
            break;
        uint64_t at = load_relaxed(&desc[head].addr) - low, word = load_relaxed(&desc[head].word);
        uint32_t buffer = (uint32_t)word, len = buffer - header_bytes;
        if (unlikely(word >> 32 & (DESC_NEXT | DESC_WRITE | DESC_INDIRECT) || at >= size || buffer > size - at ||
                     buffer < header_bytes + FRAME_MIN || len > most))
            break;
        uint8_t *data = base + at;
        __builtin_prefetch(data);
        struct iovec *iov = &batch.iov[pieces++];
        iov->iov_base = data + header_bytes;
        iov->iov_len = len;
        struct frame *frame = &batch.frames[frames];
        frame->iov = iov;
        frame->iovcnt = 1;
        frame->len = len;
        memset(&frame->hdr, 0, sizeof frame->hdr);
        if (offload) {
            memcpy(&frame->hdr, data, sizeof frame->hdr);
            if (unlikely(frame->hdr.gso_type != NET_GSO_NONE))
                bytes += segments_cost(frame);
        }
        batch.heads[chains] = head;
        batch.chain_of[frames++] = (uint8_t)chains;
        bytes += len;
    }
    to->chains = chains;
    to->frames = frames;
    to->iov = pieces;
    to->bytes = bytes;
}

/* Up to `count` chains behind `first`. */
static void gather(struct vhost_port *vhost, struct ring *ring, uint16_t first, unsigned count, struct gathered *to)
{
    for (;;) {
        gather_simple(vhost, ring, first, count, to);
        if (to->chains == count || to->bytes >= BATCH_BYTES || to->iov + FRAME_IOV > BATCH_IOV)
            return;
        if (!gather_chain(vhost, ring, (uint16_t)(first + to->chains), to))
            return;
    }
}

static unsigned vhost_poll(struct port *port, unsigned queue)
{
    struct vhost_port *vhost = vhost_port(port);
    unsigned index = 2 * queue + 1;
    struct ring *ring = &vhost->rings[index].ring;
    struct gathered found = {0};
    if (ring->state != RING_STARTED)
        return 0;
    if (ring->kicks)
        ring_set_kicks(ring, false);
    uint16_t first = ring->last_avail;
    int count = ring_available(ring, first, BATCH, &found.why);
    if (count == 0)
        return 0;
    if (count > 0)
        gather(vhost, ring, first, count < (int)BATCH ? (unsigned)count : BATCH, &found);
    if (unlikely(!ring->enabled)) { /* returned unsent, as vhost-user's "disabled" means */
        port->stats.no_peer += found.frames;
        found.frames = 0;
    }
    unsigned done = found.chains;
    if (found.frames) {
        unsigned taken = wire_send(port, queue, batch.frames, found.frames);
        if (taken < found.frames)
            done = batch.chain_of[taken];
    }
    for (unsigned i = 0; i < found.dropped && batch.dropped[i].chain < done; i++)
        ++*(batch.dropped[i].is_short ? &port->stats.too_short : &port->stats.too_long);
    if (done) {
        for (unsigned i = 0; i < done; i++)
            ring_used_at(ring->used, ring->mask, (uint16_t)(first + i), batch.heads[i], 0);
        ring_publish(ring, (uint16_t)(first + done));
        port_tell_later(port, queue);
    }
    if (unlikely(found.why && done == found.chains))
        vhost_break(vhost, index, found.why);
    return done;
}

/* The interrupt for chains of the transmit ring that were returned. It comes after the frames of the other direction, and
 * once for many turns: a driver has no haste to free what it has sent, and each interrupt takes a VM's time. */
static void vhost_tell(struct port *port, unsigned queue)
{
    struct vhost_port *vhost = vhost_port(port);
    unsigned index = 2 * queue + 1;
    if (vhost->rings[index].ring.state == RING_STARTED)
        interrupt(vhost, index);
}

/* -- to the guest --------------------------------------------------------------------------------------------- */

enum put { PUT, PUT_NO_ROOM, PUT_DROPPED, PUT_BROKEN };

static const struct net_header nothing;

static inline void write_header(uint8_t *to, unsigned header_bytes, const struct net_header *hdr, uint16_t buffers)
{
    memcpy(to, hdr, sizeof *hdr);
    if (likely(header_bytes == HEADER_MAX))
        memcpy(to + sizeof *hdr, &buffers, sizeof buffers);
}

/* Copy the header and then the frame into pieces that hold at least as much. */
static void scatter(const struct iovec *to, const uint8_t *header, unsigned header_bytes, const struct frame *frame)
{
    size_t at = 0; /* in the piece `to` */
    const uint8_t *from = header;
    size_t left = header_bytes;
    unsigned source = 0;
    for (;;) {
        size_t room = to->iov_len - at;
        size_t part = left < room ? left : room;
        copy_bytes((uint8_t *)to->iov_base + at, from, part);
        from += part;
        left -= part;
        at += part;
        if (!left) {
            if (source == frame->iovcnt)
                return;
            from = frame->iov[source].iov_base;
            left = frame->iov[source++].iov_len;
        }
        if (at == to->iov_len) {
            to++;
            at = 0;
        }
    }
}

/* One frame into chains of any shape; into several if the driver takes that (§5.1.6.4). */
static enum put put(struct turn *turn, const struct frame *frame, const struct net_header *hdr)
{
    struct vhost_port *vhost = turn->vhost;
    struct ring *ring = &turn->ring->ring;
    const unsigned header_bytes = vhost->header_bytes;
    const uint64_t total = (uint64_t)header_bytes + frame->len;
    const unsigned most = vhost->mergeable ? (unsigned)ring->mask + 1 : 1;
    static _Thread_local struct {
        uint16_t head;
        uint32_t room;
    } chains[CHAIN_MAX];
    unsigned count = 0, pieces = 0, looked_at = 0;
    uint64_t room = 0;
    while (room < total) {
        struct chain chain;
        if (count >= most || count >= CHAIN_MAX || looked_at >= CHAIN_MAX) {
            vhost->port.stats.too_long++; /* it will never fit */
            return PUT_DROPPED;
        }
        int available = ring_available(ring, (uint16_t)(turn->next + count), 1, &turn->why);
        if (available <= 0)
            return available < 0 ? PUT_BROKEN : PUT_NO_ROOM;
        if (!ring_walk(ring, (uint16_t)(turn->next + count), merged + pieces, BATCH_IOV - pieces, &chain, &turn->why))
            return PUT_BROKEN;
        turn->descriptors += chain.descriptors;
        looked_at += chain.descriptors;
        if (chain.writable_bytes < (count ? 1 : header_bytes)) {
            turn->why = "a receive buffer without room for a header";
            return PUT_BROKEN;
        }
        /* Only the writable pieces count. */
        memmove(merged + pieces, merged + pieces + chain.readable, chain.writable * sizeof merged[0]);
        pieces += chain.writable;
        chains[count].head = chain.head;
        chains[count].room = chain.writable_bytes < total ? (uint32_t)chain.writable_bytes : (uint32_t)total;
        count++;
        room += chain.writable_bytes;
    }
    uint8_t header[HEADER_MAX];
    write_header(header, header_bytes, hdr, (uint16_t)count);
    scatter(merged, header, header_bytes, frame);
    uint64_t left = total;
    for (unsigned i = 0; i < count; i++) {
        uint32_t written = left < chains[i].room ? (uint32_t)left : chains[i].room;
        ring_used_at(ring->used, ring->mask, (uint16_t)(turn->next + i), chains[i].head, written);
        left -= written;
    }
    turn->next = (uint16_t)(turn->next + count);
    turn->frames++;
    turn->bytes += frame->len;
    return PUT;
}

/* The first bytes of a frame; fewer if it is shorter. */
static unsigned peek(const struct frame *frame, uint8_t *to, unsigned bytes)
{
    unsigned at = 0;
    for (unsigned i = 0; i < frame->iovcnt && at < bytes; i++) {
        size_t part = frame->iov[i].iov_len < bytes - at ? frame->iov[i].iov_len : bytes - at;
        memcpy(to + at, frame->iov[i].iov_base, part);
        at += (unsigned)part;
    }
    return at;
}

static bool holds(const uint8_t (*macs)[6], unsigned count, const uint8_t *mac)
{
    for (unsigned i = 0; i < count; i++)
        if (!memcmp(macs[i], mac, 6))
            return true;
    return false;
}

/* receive_filter of QEMU's virtio-net.c, as vnic.nic.virtio_net.rx_filter has it. */
static bool accepts(const struct filter *filter, const struct frame *frame)
{
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint8_t start[16] = {0};
    if (filter->bits & FILTER_PROMISC)
        return true;
    if (peek(frame, start, sizeof start) < FRAME_MIN)
        return false;
    if (start[12] == 0x81 && start[13] == 0x00) {
        unsigned vlan = (start[14] << 8 | start[15]) & 0xfff;
        if (!(filter->vlans[vlan >> 3] & 1 << (vlan & 7)))
            return false;
    }
    if (start[0] & 1) {
        if (!memcmp(start, broadcast, 6))
            return !(filter->bits & FILTER_NOBCAST);
        if (filter->bits & FILTER_NOMULTI)
            return false;
        return filter->bits & FILTER_ALLMULTI || filter->overflow & FILTER_MULTICAST_OVERFLOW ||
               holds(filter->macs + filter->unicast, filter->multicast, start);
    }
    if (filter->bits & FILTER_NOUNI)
        return false;
    return filter->bits & FILTER_ALLUNI || filter->overflow & FILTER_UNICAST_OVERFLOW ||
           !memcmp(start, filter->mac, 6) || holds(filter->macs, filter->unicast, start);
}

/* Old DHCP clients read packet sockets without the auxiliary data, and treat a partial checksum as wrong (QEMU:
 * work_around_broken_dhclient). */
static bool is_dhcp_reply(const struct frame *frame)
{
    uint8_t start[36];
    return frame->len > 35 && frame->len < 1500 && peek(frame, start, sizeof start) == sizeof start &&
           start[12] == 0x08 && start[13] == 0x00 && start[23] == 17 && start[34] == 0x00 && start[35] == 0x43;
}

/* Whether the driver negotiated what this frame's header asks for. */
static bool takes(const struct vhost_port *vhost, const struct frame *frame)
{
    if (!vhost->rx_offload)
        return false;
    if (frame->hdr.gso_type != NET_GSO_NONE) {
        int bit = gso_bit(frame->hdr.gso_type);
        return bit >= 0 && vhost->rx_gso >> bit & 1;
    }
    return !(frame->hdr.flags & NET_NEEDS_CSUM && is_dhcp_reply(frame));
}

static uint32_t vhost_takes(struct port *port)
{
    const struct vhost_port *vhost = vhost_port(port);
    return vhost->rx_offload ? vhost->rx_gso : 0;
}

/* Frames into the common kind of chain: one writable buffer in the region of the last one, long enough. Returns how many;
 * the next one needs `put`, is filtered, or finds no room. First the places of some frames are found, so that they are in the cache
 * when the frames are copied. */
static unsigned put_simple(struct turn *turn, const struct frame *frames, unsigned n)
{
    struct vhost_port *vhost = turn->vhost;
    const struct ring *ring = &turn->ring->ring;
    const struct ring_desc *desc = ring->desc;
    const uint16_t *heads = ring->avail->ring;
    struct ring_used *const used = ring->used;
    const struct filter *const filter = vhost->filter;
    const uint64_t low = ring->low, size = ring->size_here;
    uint8_t *const base = ring->base;
    const uint16_t mask = ring->mask;
    const unsigned header_bytes = vhost->header_bytes, available = (uint16_t)(ring->avail_idx - turn->next);
    uint16_t next = turn->next;
    uint64_t bytes = 0;
    unsigned done = 0;
    if (n > available)
        n = available;
    for (unsigned found = AHEAD; found == AHEAD;) {
        struct {
            uint8_t *to;
            uint16_t head;
        } place[AHEAD];
        for (found = 0; found < AHEAD && done + found < n; found++) {
            const struct frame *frame = &frames[done + found];
            uint16_t head = load_relaxed(&heads[(uint16_t)(next + found) & mask]);
            if (unlikely(head > mask))
                break;
            uint64_t at = load_relaxed(&desc[head].addr) - low, word = load_relaxed(&desc[head].word);
            uint32_t buffer = (uint32_t)word;
            if (unlikely((word >> 32 & (DESC_NEXT | DESC_WRITE | DESC_INDIRECT)) != DESC_WRITE || at >= size ||
                         buffer > size - at || buffer < header_bytes + frame->len))
                break;
            if (unlikely(!frame_is_complete(frame) && !takes(vhost, frame)))
                break;
            if (filter && !accepts(filter, frame))
                break;
            place[found].to = base + at;
            place[found].head = head;
            __builtin_prefetch(base + at, 1);
        }
        for (unsigned i = 0; i < found; i++) {
            const struct frame *frame = &frames[done + i];
            uint8_t *to = place[i].to;
            write_header(to, header_bytes, frame_is_complete(frame) ? &nothing : &frame->hdr, 1);
            to += header_bytes;
            if (likely(frame->iovcnt == 1)) {
                copy_frame(to, frame->iov[0].iov_base, frame->len);
            } else {
                for (unsigned k = 0; k < frame->iovcnt; k++) {
                    copy_bytes(to, frame->iov[k].iov_base, frame->iov[k].iov_len);
                    to += frame->iov[k].iov_len;
                }
            }
            ring_used_at(used, mask, (uint16_t)(next + i), place[i].head, header_bytes + frame->len);
            bytes += frame->len;
        }
        next = (uint16_t)(next + found);
        done += found;
    }
    turn->next = next;
    turn->frames += done;
    turn->bytes += bytes;
    return done;
}

static bool put_part(void *context, const struct frame *part)
{
    struct turn *turn = context;
    if (turn->why)
        return true; /* broken meanwhile: the rest is dropped with it */
    return put(turn, part, &nothing) != PUT_NO_ROOM;
}

/* A frame that the driver does not take as it is: complete it, but for the first `done` parts. */
static enum put put_completed(struct turn *turn, const struct frame *frame, unsigned done)
{
    struct stats *stats = &turn->vhost->port.stats;
    int available = ring_available(&turn->ring->ring, turn->next, 1, &turn->why);
    if (available < 0)
        return PUT_BROKEN;
    if (!available) /* before the work of completing it */
        return parts_wait(&turn->vhost->port, done) ? PUT_NO_ROOM : PUT_DROPPED;
    switch (offload_complete(frame, &done, put_part, turn)) {
    case OFFLOAD_NO_ROOM:
        return parts_wait(&turn->vhost->port, done) ? PUT_NO_ROOM : PUT_DROPPED;
    case OFFLOAD_BAD:
        stats->bad_offload++;
        return PUT_DROPPED;
    default:
        return turn->why ? PUT_BROKEN : PUT;
    }
}

static unsigned vhost_receive(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    struct vhost_port *vhost = vhost_port(port);
    unsigned index = 2 * queue;
    struct ring *ring = &vhost->rings[index].ring;
    if (unlikely(ring->state != RING_STARTED)) {
        *(ring->state == RING_BROKEN ? &port->stats.broken : &port->stats.no_peer) += n;
        return n;
    }
    if (ring->kicks) {
        ring_set_kicks(ring, false);
        wire_has_room(port, queue); /* another source may sleep until a kick comes: it asks for one again */
    }
    ring->more = false;
    struct turn turn = {.vhost = vhost, .ring = &vhost->rings[index], .next = ring->last_avail};
    unsigned taken = 0, before = parts_before(port);
    uint64_t filtered = 0;
    ring_available(ring, turn.next, n, &turn.why); /* one look for all of them; an error shows again below */
    while (taken < n) {
        taken += put_simple(&turn, frames + taken, n - taken);
        if (taken == n)
            break;
        const struct frame *frame = &frames[taken];
        enum put result;
        if (vhost->filter && !accepts(vhost->filter, frame)) {
            filtered++;
            taken++;
            continue;
        }
        if (frame_is_complete(frame))
            result = put(&turn, frame, &nothing);
        else if (takes(vhost, frame))
            result = put(&turn, frame, &frame->hdr);
        else
            result = put_completed(&turn, frame, taken ? 0 : before);
        if (result == PUT_NO_ROOM || result == PUT_BROKEN)
            break;
        taken++;
        if (turn.descriptors > BATCH_DESCRIPTORS) {
            ring->more = taken < n;
            break;
        }
    }
    port->stats.filtered += filtered;
    port->stats.frames_out += turn.frames;
    port->stats.bytes_out += turn.bytes;
    if (turn.next != ring->last_avail) {
        ring_publish(ring, turn.next);
        interrupt(vhost, index);
    }
    if (unlikely(turn.why != NULL)) {
        vhost_break(vhost, index, turn.why);
        port->stats.broken += n - taken;
        return n;
    }
    return taken;
}

/* -- sleep and faults ----------------------------------------------------------------------------------------- */

static bool vhost_await_frames(struct port *port, unsigned queue)
{
    struct ring *ring = &vhost_port(port)->rings[2 * queue + 1].ring;
    if (ring->state != RING_STARTED)
        return false;
    ring_set_kicks(ring, true);
    return load_acquire(&ring->avail->idx) != ring->last_avail;
}

/* Right after a `receive` that found no room: the chains that it saw did not do, so only more of them are room. */
static bool vhost_await_room(struct port *port, unsigned queue)
{
    struct ring *ring = &vhost_port(port)->rings[2 * queue].ring;
    if (ring->state != RING_STARTED || ring->more)
        return true;
    ring_set_kicks(ring, true);
    return load_acquire(&ring->avail->idx) != ring->avail_idx;
}

static bool vhost_faulted(struct port *port, const void *address)
{
    struct vhost_port *vhost = vhost_port(port);
    if (!vhost->memory || !memory_holds(vhost->memory, address))
        return false;
    for (unsigned i = 0; i < 2 * port->queues; i++)
        if (vhost->rings[i].ring.state == RING_STARTED)
            vhost_break(vhost, i, "guest memory that its file does not hold any more (SIGBUS)");
    return true;
}

int vhost_set_filter(struct port *port, const struct filter *filter)
{
    struct vhost_port *vhost = vhost_port(port);
    if (!filter) {
        free(vhost->filter);
        vhost->filter = NULL;
        return 0;
    }
    if (!vhost->filter && !(vhost->filter = malloc(sizeof *filter)))
        return 12; /* ENOMEM */
    *vhost->filter = *filter;
    return 0;
}

const struct port_ops vhost_port_ops = {
    .size = sizeof(struct vhost_port),
    .add = vhost_user_add,
    .remove = vhost_user_remove,
    .receive = vhost_receive,
    .takes = vhost_takes,
    .poll = vhost_poll,
    .await_frames = vhost_await_frames,
    .await_room = vhost_await_room,
    .tell = vhost_tell,
    .faulted = vhost_faulted,
};
