/* A split virtqueue (virtio 1.2 §2.7) as the drivers of rings.c and netem.c use it; Python lays it out, in the same
 * order of fields. */
#ifndef DRIVER_RING_H
#define DRIVER_RING_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#define NO_INTERRUPT 1 /* avail.flags: the driver polls */
#define NO_NOTIFY 1    /* used.flags: the device polls */

struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct avail {
    uint16_t flags;
    _Atomic uint16_t idx;
    uint16_t ring[];
};

struct used_element {
    uint32_t id, len;
};

struct used {
    _Atomic uint16_t flags;
    _Atomic uint16_t idx;
    struct used_element ring[];
};

/* One ring whose chain i is descriptor i and stays in slot i: what is used in order is given out again in order, so
 * avail.idx is all that the driver writes. */
struct ring {
    struct descriptor *desc;
    struct avail *avail;
    struct used *used;
    uint8_t *memory; /* of guest address 0 */
    uint32_t size;
    int32_t kick, call;
    uint16_t idx;  /* avail.idx, the driver's own copy */
    uint16_t seen; /* used.idx up to which the driver has looked */
    uint16_t done; /* used.idx of the bare device */
};

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void publish(struct ring *ring, unsigned chains)
{
    ring->idx = (uint16_t)(ring->idx + chains);
    atomic_store_explicit(&ring->avail->idx, ring->idx, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (!(atomic_load_explicit(&ring->used->flags, memory_order_relaxed) & NO_NOTIFY)) {
        uint64_t one = 1;
        (void)!write(ring->kick, &one, sizeof one);
    }
}

#endif
