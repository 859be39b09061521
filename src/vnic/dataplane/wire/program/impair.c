/* The decisions about frames of an impaired direction. See impair.h, which has their order and formulas. */
#include "impair.h"

#include <endian.h>

#define NS_PER_S 1000000000u

static uint32_t draw(struct impairment *impair)
{
    uint64_t z = impair->state.random += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

static uint32_t correlated(struct impairment *impair, enum draw which)
{
    uint32_t value = draw(impair);
    if (impair->correlation[which]) {
        uint64_t rho = (uint64_t)impair->correlation[which] + 1, rest = (UINT64_C(1) << 32) - rho;
        value = (uint32_t)((value * rest + impair->state.last[which] * rho) >> 32);
        impair->state.last[which] = value;
    }
    return value;
}

static bool chance(struct impairment *impair, uint32_t probability, enum draw which)
{
    return probability && probability >= correlated(impair, which);
}

/* r * span >> 32, where the product may need more than 64 bits. */
static uint64_t scale(uint32_t r, uint64_t span)
{
    return r * (span >> 32) + (r * (span & UINT32_MAX) >> 32);
}

static uint64_t delay(struct impairment *impair)
{
    uint64_t jitter = impair->jitter_ns;
    if (!jitter)
        return impair->delay_ns;
    uint32_t r = correlated(impair, DRAW_DELAY);
    int64_t ns = (int64_t)impair->delay_ns;
    if (impair->entries)
        ns += ((int64_t)jitter * impair->table[scale(r, impair->entries)] + (1 << (TABLE_SHIFT - 1))) >> TABLE_SHIFT;
    else
        ns += (int64_t)scale(r, 2 * jitter) - (int64_t)jitter;
    return ns > 0 ? (uint64_t)ns : 0;
}

static uint8_t byte_at(const struct frame *frame, size_t at)
{
    for (uint32_t i = 0; i < frame->iovcnt; i++) {
        if (at < frame->iov[i].iov_len)
            return ((const uint8_t *)frame->iov[i].iov_base)[at];
        at -= frame->iov[i].iov_len;
    }
    return 0;
}

/* Bytes of the frame on the wire: of its longest segment, where it is to be segmented. */
static uint32_t wire_length(const struct frame *frame)
{
    uint32_t start = le16toh(frame->hdr.csum_start), transport = 0;
    switch (frame->hdr.gso_type & ~NET_GSO_ECN) {
    case NET_GSO_NONE:
        return frame->len;
    case NET_GSO_TCPV4:
    case NET_GSO_TCPV6:
        if (start + 12 >= frame->len)
            return frame->len;
        transport = 4 * (uint32_t)(byte_at(frame, start + 12) >> 4);
        break;
    case NET_GSO_UDP_L4:
        transport = 8;
        break;
    }
    uint32_t segment = start + transport + le16toh(frame->hdr.gso_size);
    return segment < frame->len ? segment : frame->len;
}

static bool goes_first(struct impairment *impair)
{
    struct impair_state *state = &impair->state;
    if (!impair->gap)
        return false;
    if (state->counter < impair->gap - 1) {
        state->counter++;
        return false;
    }
    if (!chance(impair, impair->reorder, DRAW_REORDER))
        return false;
    state->counter = 0;
    return true;
}

unsigned impair_decide(struct impairment *impair, const struct frame *frame, struct verdict verdicts[2])
{
    unsigned copies = 1;
    if (impair->max_frame && wire_length(frame) > impair->max_frame) {
        impair->too_long++;
        return 0;
    }
    if (chance(impair, impair->loss, DRAW_LOSS)) {
        impair->lost++;
        return 0;
    }
    if (chance(impair, impair->duplicate, DRAW_DUPLICATE)) {
        impair->duplicated++;
        copies = 2;
    }
    for (unsigned i = 0; i < copies; i++) {
        struct verdict *verdict = &verdicts[i];
        *verdict = (struct verdict){.corrupt = chance(impair, impair->corrupt, DRAW_CORRUPT)};
        if (verdict->corrupt) {
            impair->corrupted++;
            verdict->part = draw(impair);
            verdict->bit = draw(impair);
        }
        verdict->at_once = goes_first(impair);
        if (verdict->at_once)
            impair->reordered++;
        else
            verdict->delay_ns = delay(impair);
    }
    return copies;
}

uint64_t impair_due(struct impairment *impair, const struct verdict *verdict, uint64_t now_ns, uint32_t len)
{
    if (verdict->at_once)
        return now_ns;
    uint64_t due = now_ns + verdict->delay_ns;
    if (!impair->rate)
        return due;
    uint64_t work = (uint64_t)len * NS_PER_S + impair->rest;
    impair->rest = work % impair->rate;
    if (impair->last_due_ns > due)
        due = impair->last_due_ns;
    return impair->last_due_ns = due + work / impair->rate;
}
