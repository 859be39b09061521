/* Both guests' drivers, and two loops to compare vnic-wire with: a device that checks nothing, and bare copies.
 *
 * `vnic bench wire-rings` compiles this file and calls it; the rings are laid out in Python and addressed here. */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "driver_ring.h"

#define BURST 64
#define TURNS_BETWEEN_LOOKS_AT_THE_CLOCK 64

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* How many chains came back since the last look, or 0 if they are fewer than `batch`. */
static unsigned returned(struct ring *ring, unsigned batch)
{
    uint16_t used = atomic_load_explicit(&ring->used->idx, memory_order_acquire);
    unsigned chains = (uint16_t)(used - ring->seen);
    if (chains < batch)
        return 0;
    ring->seen = used;
    return chains;
}

/* Give all chains to the device that it does not have. */
static void fill(struct ring *ring)
{
    ring->avail->flags = NO_INTERRUPT;
    unsigned chains = ring->size - (uint16_t)(ring->idx - ring->seen);
    if (chains)
        publish(ring, chains);
}

/* Send and receive for `ns`: what comes back is given out again at once. Returns how many packets of `len` bytes
 * (with header) were received, or 0 if one was not of that length. */
uint64_t drive(struct ring *tx, struct ring *rx, uint64_t ns, uint32_t batch, uint32_t len)
{
    uint64_t received = 0, end = now_ns() + ns;
    fill(rx);
    fill(tx);
    do {
        for (int turn = 0; turn < TURNS_BETWEEN_LOOKS_AT_THE_CLOCK; turn++) {
            unsigned arrived = returned(rx, batch);
            if (arrived) {
                if (rx->used->ring[(uint16_t)(rx->seen - 1) % rx->size].len != len)
                    return 0;
                received += arrived;
                publish(rx, arrived);
            }
            unsigned sent = returned(tx, batch);
            if (sent)
                publish(tx, sent);
            if (!arrived && !sent)
                relax();
        }
    } while (now_ns() < end);
    return received;
}

/* Wait for an eventfd, at most for `ms`; false: it was not written. */
static int await(int fd, int ms)
{
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    uint64_t count;
    return poll(&polled, 1, ms) == 1 && read(fd, &count, sizeof count) == sizeof count;
}

/* `rounds` times: give the device all chains, and sleep until it has interrupted for the last one. With EVENT_IDX, so
 * there is one kick and one interrupt a round. Returns how many packets were received, 0 if they do not come. */
uint64_t step(struct ring *tx, struct ring *rx, uint32_t rounds, uint32_t len)
{
    for (uint32_t round = 0; round < rounds; round++) {
        rx->avail->ring[rx->size] = (uint16_t)(rx->seen - 1);            /* used_event: never */
        tx->avail->ring[tx->size] = (uint16_t)(tx->seen + tx->size - 1); /* the last one */
        rx->idx = (uint16_t)(rx->idx + rx->size);
        atomic_store_explicit(&rx->avail->idx, rx->idx, memory_order_release);
        tx->idx = (uint16_t)(tx->idx + tx->size);
        atomic_store_explicit(&tx->avail->idx, tx->idx, memory_order_release);
        uint64_t one = 1;
        (void)!write(tx->kick, &one, sizeof one);
        while (returned(tx, tx->size) == 0)
            if (!await(tx->call, 2000))
                return 0;
        while (returned(rx, rx->size) == 0)
            sched_yield();
        if (rx->used->ring[rx->size - 1].len != len)
            return 0;
    }
    return (uint64_t)rounds * rx->size;
}

/* Move up to a burst without any check: each head, each descriptor and the memory are taken as they are. */
static unsigned move(struct ring *tx, struct ring *rx)
{
    uint16_t sent = (uint16_t)(atomic_load_explicit(&tx->avail->idx, memory_order_acquire) - tx->done);
    uint16_t room = (uint16_t)(atomic_load_explicit(&rx->avail->idx, memory_order_acquire) - rx->done);
    unsigned burst = sent < room ? sent : room;
    if (burst > BURST)
        burst = BURST;
    if (!burst)
        return 0;
    for (unsigned i = 0; i < burst; i++, tx->done++, rx->done++) {
        uint16_t from = tx->avail->ring[tx->done % tx->size], to = rx->avail->ring[rx->done % rx->size];
        uint32_t len = tx->desc[from].len;
        uint8_t *packet = rx->memory + rx->desc[to].addr;
        memcpy(packet, tx->memory + tx->desc[from].addr, len);
        packet[10] = 1; /* num_buffers */
        tx->used->ring[tx->done % tx->size] = (struct used_element){from, 0};
        rx->used->ring[rx->done % rx->size] = (struct used_element){to, len};
    }
    atomic_store_explicit(&rx->used->idx, rx->done, memory_order_release);
    atomic_store_explicit(&tx->used->idx, tx->done, memory_order_release);
    return burst;
}

/* The bare device, polling, for `drive`. */
void polling_device(struct ring *tx, struct ring *rx, _Atomic uint32_t *stop)
{
    atomic_store(&tx->used->flags, NO_NOTIFY);
    atomic_store(&rx->used->flags, NO_NOTIFY);
    while (!atomic_load_explicit(stop, memory_order_relaxed))
        if (!move(tx, rx))
            relax();
}

/* The bare device, asleep until it is kicked, for `step`. Returns the CPU time that it took, in ns. */
uint64_t sleeping_device(struct ring *tx, struct ring *rx, _Atomic uint32_t *stop)
{
    struct timespec began, ended;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &began);
    while (!atomic_load_explicit(stop, memory_order_relaxed)) {
        if (!await(tx->kick, 100))
            continue;
        while (move(tx, rx))
            ;
        uint64_t one = 1;
        (void)!write(tx->call, &one, sizeof one);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ended);
    return (uint64_t)((ended.tv_sec - began.tv_sec) * 1000000000 + ended.tv_nsec - began.tv_nsec);
}

/* Copy the same packets between the same buffers, all of a ring `rounds` times. Returns the CPU time in ns. */
uint64_t copy(const struct ring *tx, const struct ring *rx, uint32_t rounds)
{
    struct timespec began, ended;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &began);
    while (rounds--)
        for (uint32_t i = 0; i < tx->size; i++)
            memcpy(rx->memory + rx->desc[i].addr, tx->memory + tx->desc[i].addr, tx->desc[i].len);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ended);
    return (uint64_t)((ended.tv_sec - began.tv_sec) * 1000000000 + ended.tv_nsec - began.tv_nsec);
}
