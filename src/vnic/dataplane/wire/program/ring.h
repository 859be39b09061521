/* The device's side of one split virtqueue (virtio 1.2 §2.7): find chains, return them, notify the driver.
 *
 * vhost_port.c moves frames through it, vhost_user.c starts and stops it. Everything in it may change under us: a field
 * is loaded once into a local, and that local is checked. A ring in a state that the specification forbids is broken:
 * it is not touched any more until the front-end starts it again. */
#ifndef RING_H
#define RING_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include "memory.h"

#define CHAIN_MAX 1024u       /* descriptors of one chain, an indirect table included (QEMU's VIRTQUEUE_MAX_SIZE) */
#define RING_SIZE_MAX 32768u  /* §2.7 */
#define RING_ALIGN_DESC 16u
#define RING_ALIGN_AVAIL 2u
#define RING_ALIGN_USED 4u

#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u
#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY 1u

/* §2.7.5. `word` holds len, flags << 32 and next << 48, so that one load takes all three. */
struct ring_desc {
    uint64_t addr;
    uint64_t word;
};
_Static_assert(sizeof(struct ring_desc) == 16, "descriptor");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little-endian, and so are the loads here");

/* §2.7.6; used_event is ring[size]. */
struct ring_avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[];
};

/* §2.7.8. An element is id | len << 32; it is 4 bytes aligned only. avail_event is behind ring[size]. */
struct __attribute__((packed, aligned(4))) ring_used {
    uint16_t flags;
    uint16_t idx;
    uint64_t ring[];
};
_Static_assert(sizeof(struct ring_used) == 4, "used ring");

enum ring_state { RING_STOPPED, RING_STARTED, RING_BROKEN };

struct ring {
    struct ring_desc *desc;
    struct ring_avail *avail;
    struct ring_used *used;
    const struct memory *memory;
    /* The region of the last buffer: its guest range, and what to add to a guest address. */
    uint64_t low, size_here;
    uint8_t *base;
    uint16_t mask;       /* size - 1 */
    uint16_t last_avail; /* the next chain; all before it were returned, so it is used.idx as well */
    uint16_t avail_idx;  /* as last seen */
    uint16_t notified;   /* used.idx at the last look at used_event */
    uint8_t state;       /* enum ring_state */
    bool enabled;        /* SET_VRING_ENABLE */
    bool event_idx, indirect;
    bool kicks;          /* the driver was asked to kick */
    bool notified_valid;
    bool more;           /* a turn ended at its budget, not because there was no room */
    uint8_t call_kind;   /* enum wake_kind */
    int call;            /* -1: none */
};

/* The chains of a part of the available ring, as ring_walk finds them. */
struct chain {
    uint16_t head;
    unsigned readable, writable; /* pieces: the readable ones first */
    uint64_t readable_bytes, writable_bytes;
    unsigned descriptors; /* looked at */
};

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

/* Stores before it are seen before loads behind it are made: between what we tell the driver and what we look at. */
static inline void fence(void)
{
#ifdef __SANITIZE_THREAD__ /* gcc's does not know fences */
    static uint32_t any;
    __atomic_fetch_add(&any, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* The number of chains available behind `last`; the driver's index is read again if fewer than `wanted` are known.
 * -1: the index jumped further than the ring is long (*why). */
static inline int ring_available(struct ring *ring, uint16_t last, unsigned wanted, const char **why)
{
    uint16_t count = (uint16_t)(ring->avail_idx - last);
    if (count >= wanted)
        return count;
    ring->avail_idx = load_acquire(&ring->avail->idx);
    count = (uint16_t)(ring->avail_idx - last);
    if (__builtin_expect(count > (unsigned)ring->mask + 1, 0)) {
        *why = "avail.idx jumped further than the ring is long";
        return -1;
    }
    return count;
}

static inline uint16_t ring_head(const struct ring *ring, uint16_t at)
{
    return load_relaxed(&ring->avail->ring[at & ring->mask]);
}

/* Our address of a guest's buffer in the region of the last one; NULL: ask ring_region. `len` > 0. */
static inline uint8_t *ring_buffer(const struct ring *ring, uint64_t guest, uint32_t len)
{
    uint64_t at = guest - ring->low;
    if (__builtin_expect(at < ring->size_here && len <= ring->size_here - at, 1))
        return ring->base + at;
    return NULL;
}

/* The same in any one region, which is the last one from now on; NULL: not in one region (ring_walk splits it). */
uint8_t *ring_region(struct ring *ring, uint64_t guest, uint32_t len);

/* Follow the chain of any shape at available index `at` (§2.7.5.3): its buffers go to `iov`, up to `room` pieces.
 * False: it breaks the rules (*why), also when it has more pieces than there is room for. */
bool ring_walk(struct ring *ring, uint16_t at, struct iovec *iov, unsigned room, struct chain *chain, const char **why);

/* Write the element of a returned chain at used index `at`; the driver sees it after ring_publish. */
static inline void ring_used_at(struct ring_used *used, uint16_t mask, uint16_t at, uint16_t head, uint32_t written)
{
    uint64_t element = head | (uint64_t)written << 32;
    memcpy((uint8_t *)used + 4 + 8 * (size_t)(at & mask), &element, sizeof element); /* 4 bytes aligned, one store */
}

/* All chains up to `next` are returned: show the driver, and remember it. */
static inline void ring_publish(struct ring *ring, uint16_t next)
{
    store_release(&ring->used->idx, next);
    ring->last_avail = next;
}

/* Whether the driver wants an interrupt for what was published since the last call (§2.7.7.2). */
bool ring_wants_interrupt(struct ring *ring);

/* Ask for kicks, or for none (§2.7.10). After true, look at the available ring once more. */
void ring_set_kicks(struct ring *ring, bool kicks);

/* Start: the areas are ours and aligned. Continues at used.idx. Under fault_guarded on the main thread. */
void ring_start(struct ring *ring, struct ring_desc *desc, struct ring_avail *avail, struct ring_used *used,
                unsigned size);

static inline size_t ring_desc_bytes(unsigned size)
{
    return 16 * (size_t)size;
}
static inline size_t ring_avail_bytes(unsigned size, bool event_idx)
{
    return 4 + 2 * (size_t)size + (event_idx ? 2 : 0);
}
static inline size_t ring_used_bytes(unsigned size, bool event_idx)
{
    return 4 + 8 * (size_t)size + (event_idx ? 2 : 0);
}

#endif
