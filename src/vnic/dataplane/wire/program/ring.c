/* Chains of any shape, and notifications both ways. See ring.h. */
#include "ring.h"

#include <string.h>

uint8_t *ring_region(struct ring *ring, uint64_t guest, uint32_t len)
{
    const struct region *region = memory_find(ring->memory, guest);
    if (!region)
        return NULL;
    ring->low = region->guest;
    ring->size_here = region->size;
    ring->base = region->base;
    return ring_buffer(ring, guest, len);
}

/* One buffer, which may reach over the border of two regions that lie side by side. -1: it is not in memory, or needs
 * more than `room` pieces. */
static int split_buffer(struct ring *ring, uint64_t guest, uint32_t len, struct iovec *iov, unsigned room)
{
    uint8_t *base = ring_buffer(ring, guest, len);
    if (!base)
        base = ring_region(ring, guest, len);
    if (__builtin_expect(base != NULL, 1)) {
        if (!room)
            return -1;
        *iov = (struct iovec){base, len};
        return 1;
    }
    unsigned pieces = 0;
    while (len) {
        const struct region *region = memory_find(ring->memory, guest);
        if (!region || pieces == room)
            return -1;
        uint64_t left = region->size - (guest - region->guest);
        uint32_t part = len < left ? len : (uint32_t)left;
        iov[pieces++] = (struct iovec){region->base + (guest - region->guest), part};
        guest += part;
        len -= part;
    }
    return (int)pieces;
}

/* Copies an indirect table, so that the driver cannot change what was checked. */
static unsigned copy_table(struct ring *ring, uint64_t guest, uint32_t len, struct ring_desc *table)
{
    if (!len || len % sizeof *table || len > CHAIN_MAX * sizeof *table)
        return 0;
    const uint8_t *base = ring_buffer(ring, guest, len);
    if (!base)
        base = ring_region(ring, guest, len);
    if (!base)
        return 0;
    memcpy(table, base, len);
    return len / sizeof *table;
}

bool ring_walk(struct ring *ring, uint16_t at, struct iovec *iov, unsigned room, struct chain *chain, const char **why)
{
    static _Thread_local struct ring_desc copy[CHAIN_MAX];
    const struct ring_desc *table = ring->desc;
    unsigned entries = (unsigned)ring->mask + 1, seen = 0;
    bool in_table = false;
    unsigned index = ring_head(ring, at);
    *chain = (struct chain){.head = (uint16_t)index};
    for (;;) {
        if (index >= entries) {
            *why = "a descriptor outside of its table";
            return false;
        }
        uint64_t addr = load_relaxed(&table[index].addr), word = load_relaxed(&table[index].word);
        uint32_t len = (uint32_t)word, flags = (uint32_t)(word >> 32) & 0xffff;
        if (flags & DESC_INDIRECT) {
            /* §2.7.5.3.1: not nested, not followed by others. */
            if (!ring->indirect || in_table || flags & DESC_NEXT) {
                *why = "an indirect descriptor where none may be";
                return false;
            }
            entries = copy_table(ring, addr, len, copy);
            if (!entries) {
                *why = "an indirect table of a wrong size or outside of memory";
                return false;
            }
            table = copy;
            in_table = true;
            index = 0;
            continue;
        }
        if (!len) {
            *why = "a buffer of zero bytes";
            return false;
        }
        if (++seen > CHAIN_MAX || (!in_table && seen > entries)) {
            *why = "a descriptor chain that loops or is too long";
            return false;
        }
        if (!(flags & DESC_WRITE) && chain->writable) {
            *why = "a readable buffer behind a writable one";
            return false;
        }
        unsigned used = chain->readable + chain->writable;
        int pieces = split_buffer(ring, addr, len, iov + used, room - used);
        if (pieces < 0) {
            *why = "a buffer outside of memory, or in too many pieces";
            return false;
        }
        if (flags & DESC_WRITE) {
            chain->writable += (unsigned)pieces;
            chain->writable_bytes += len;
        } else {
            chain->readable += (unsigned)pieces;
            chain->readable_bytes += len;
        }
        if (!(flags & DESC_NEXT)) {
            chain->descriptors = seen;
            return true;
        }
        index = (unsigned)(word >> 48);
    }
}

static uint16_t *used_event(const struct ring *ring)
{
    return &ring->avail->ring[(unsigned)ring->mask + 1];
}

static uint16_t *avail_event(const struct ring *ring)
{
    return (uint16_t *)(void *)((uint8_t *)ring->used + 4 + 8 * ((size_t)ring->mask + 1));
}

bool ring_wants_interrupt(struct ring *ring)
{
    /* The store of used.idx before the load of what the driver wants: it does the two the other way round. */
    fence();
    uint16_t before = ring->notified, now = ring->last_avail;
    bool valid = ring->notified_valid;
    ring->notified = now;
    ring->notified_valid = true;
    if (!ring->event_idx)
        return !(load_relaxed(&ring->avail->flags) & AVAIL_NO_INTERRUPT);
    uint16_t event = load_relaxed(used_event(ring));
    return !valid || (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

void ring_set_kicks(struct ring *ring, bool kicks)
{
    ring->kicks = kicks;
    if (!ring->event_idx)
        store_relaxed(&ring->used->flags, (uint16_t)(kicks ? 0 : USED_NO_NOTIFY));
    else if (kicks)
        store_relaxed(avail_event(ring), ring->avail_idx); /* else the old event lies behind, and no kick comes */
    if (kicks)
        fence(); /* before the load of avail.idx that follows */
}

void ring_start(struct ring *ring, struct ring_desc *desc, struct ring_avail *avail, struct ring_used *used,
                unsigned size)
{
    ring->desc = desc;
    ring->avail = avail;
    ring->used = used;
    ring->mask = (uint16_t)(size - 1);
    ring->low = ring->size_here = 0;
    /* Every chain is returned before a ring stops, in order, so used.idx is where to go on. The base that a front-end
     * remembers lags behind when a connection was cut. */
    ring->last_avail = ring->avail_idx = load_acquire(&used->idx);
    ring->notified_valid = false;
    ring_set_kicks(ring, true);
    ring->state = RING_STARTED;
}
