/* Two guests' drivers at the ends of a delay line, and two packet sockets at the ends of the kernel's: frames with the time
 * at which they were sent, and how late they come.
 *
 * `vnic bench netem` compiles this file and calls it; the rings are laid out in Python and addressed here. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "driver_ring.h"

#define BURST 32
#define STAMP (12 + 14) /* behind the virtio_net_hdr and the Ethernet header */

/* What is measured, and what comes of it. */
struct flow {
    uint64_t gap_ns;   /* between two frames; 0: as many as the ring takes */
    uint64_t ns;       /* how long frames are sent */
    uint64_t delay_ns; /* of each way */
    uint64_t from_ns;  /* frames before this time warm the caches up, and are not noted; at first: ns after the start */
    uint64_t most;     /* stop after so many were received; 0: by the time */
    uint64_t sent, received;
    uint64_t first_ns, last_ns; /* when a frame was received */
    uint64_t ways, trips;       /* how many of these were noted */
    uint64_t room;
    int32_t *way, *trip; /* ns that a frame, and a frame and its answer, came too late */
};

static unsigned returned(const struct ring *ring)
{
    return (uint16_t)(atomic_load_explicit(&ring->used->idx, memory_order_acquire) - ring->seen);
}

static void note(const struct flow *flow, uint64_t stamp, int32_t *into, uint64_t *count, uint64_t late_ns)
{
    if (stamp >= flow->from_ns && *count < flow->room)
        into[(*count)++] = (int32_t)late_ns;
}

static uint8_t *stamp_of(const struct ring *ring, uint32_t chain)
{
    return ring->memory + ring->desc[chain].addr + STAMP;
}

/* Send up to `most` frames with this stamp, as many as the device has given chains back for. */
static unsigned send_stamped(struct ring *ring, uint64_t stamp, unsigned most)
{
    unsigned room, count = 0;
    ring->seen = (uint16_t)(ring->seen + returned(ring));
    room = ring->size - (uint16_t)(ring->idx - ring->seen);
    for (; count < most && count < room; count++)
        memcpy(stamp_of(ring, (uint16_t)(ring->idx + count) % ring->size), &stamp, sizeof stamp);
    if (count)
        publish(ring, count);
    return count;
}

/* The next frame that has come; 0: none has. */
static int take_stamp(struct ring *ring, uint64_t *stamp)
{
    if (!returned(ring))
        return 0;
    memcpy(stamp, stamp_of(ring, ring->used->ring[ring->seen % ring->size].id % ring->size), sizeof *stamp);
    ring->seen++;
    return 1;
}

static void fill(struct ring *ring)
{
    ring->avail->flags = NO_INTERRUPT;
    unsigned chains = ring->size - (uint16_t)(ring->idx - ring->seen);
    if (chains)
        publish(ring, chains);
}

/* Frames from `tx` to `rx`; what arrives there is answered from `answers` to `answered`, unless these are NULL. */
void rings(struct ring *tx, struct ring *rx, struct ring *answers, struct ring *answered, struct flow *flow)
{
    uint64_t began = now_ns(), next = began, end = began + flow->ns;
    flow->from_ns += began;
    fill(rx);
    if (answered)
        fill(answered);
    tx->avail->flags = NO_INTERRUPT;
    if (answers)
        answers->avail->flags = NO_INTERRUPT;
    for (uint64_t now = began; now < end + 2 * flow->delay_ns + flow->ns; now = now_ns()) {
        uint64_t stamp;
        if (now < end && !flow->gap_ns) {
            flow->sent += send_stamped(tx, now, BURST);
        } else if (now < end && now >= next) {
            flow->sent += send_stamped(tx, now, 1);
            next = next + flow->gap_ns > now ? next + flow->gap_ns : now; /* no bursts to catch up */
        }
        unsigned came = 0;
        for (; came < BURST && take_stamp(rx, &stamp); came++) {
            uint64_t at = now_ns();
            note(flow, stamp, flow->way, &flow->ways, at - stamp - flow->delay_ns);
            if (!flow->received++)
                flow->first_ns = at;
            flow->last_ns = at;
            if (answers)
                send_stamped(answers, stamp, 1);
        }
        if (came)
            publish(rx, came);
        if (flow->most ? flow->received >= flow->most : now >= end && flow->received >= flow->sent)
            return;
        for (came = 0; answered && came < BURST && take_stamp(answered, &stamp); came++)
            note(flow, stamp, flow->trip, &flow->trips, now_ns() - stamp - 2 * flow->delay_ns);
        if (came)
            publish(answered, came);
    }
}

/* The same between two packet sockets, without answers; `frame` has `len` bytes. Returns 0, or an errno. */
int packets(int tx, int rx, uint8_t *frame, uint32_t len, struct flow *flow)
{
    static uint8_t got[1 << 17];
    uint64_t began = now_ns(), next = began, end = began + flow->ns;
    flow->from_ns += began;
    for (uint64_t now = began; now < end + 2 * flow->delay_ns; now = now_ns()) {
        if (now < end && (!flow->gap_ns || now >= next)) {
            memcpy(frame + STAMP - 12, &now, sizeof now);
            if (send(tx, frame, len, MSG_DONTWAIT) == (ssize_t)len)
                flow->sent++;
            else if (errno != EAGAIN && errno != ENOBUFS)
                return errno;
            if (flow->gap_ns)
                next = next + flow->gap_ns > now ? next + flow->gap_ns : now;
        }
        for (unsigned came = 0; came < BURST && recv(rx, got, sizeof got, MSG_DONTWAIT) == (ssize_t)len; came++) {
            uint64_t stamp, at = now_ns();
            memcpy(&stamp, got + STAMP - 12, sizeof stamp);
            note(flow, stamp, flow->way, &flow->ways, at - stamp - flow->delay_ns);
            if (!flow->received++)
                flow->first_ns = at;
            flow->last_ns = at;
        }
        if (now >= end && flow->received >= flow->sent)
            return 0;
    }
    return 0;
}
