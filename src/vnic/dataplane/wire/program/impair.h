/* What an impaired direction of a port does to each frame: the decisions, without clock or memory. line.c calls it for
 * each frame that comes in, and keeps the frames; vnic's filter/netem.py does the same in Python, draw for draw.
 *
 * The words are those of tc-netem(8). All is integer arithmetic, so that the same frames and the same state give the
 * same decisions everywhere. They depend on nothing else: not on the time, and not on how full the line is.
 *
 * Random numbers are SplitMix64's (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), of which
 * a draw is the high 32 bits:
 *   random += 0x9E3779B97F4A7C15; z = random; z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
 *   z = (z ^ z >> 27) * 0x94D049BB133111EB; draw = (z ^ z >> 31) >> 32.
 * correlated(i): r = draw. With a correlation: rho = correlation[i] + 1, r = (r * (2^32 - rho) + last[i] * rho) >> 32,
 * last[i] = r (as get_crandom of Linux's sch_netem.c).
 * chance(p, i): p != 0 and p >= correlated(i). There is no draw when p is 0.
 *
 * For each frame:
 *   1. Longer than max_frame on the wire: lost (too_long). Of a frame that is to be segmented, the segments count.
 *   2. chance(loss): lost. (tc draws the duplicate first and lets the two cancel out; here the loss is what was asked for.)
 *   3. chance(duplicate): steps 4 to 6 happen for the frame, and then for its copy.
 *   4. chance(corrupt): two more draws, part and bit. The frame is completed into n parts; the part number
 *      part * n >> 32 has its bit number (bit * its bits) >> 32 flipped. Bit b is 1 << (b & 7) of byte b >> 3.
 *   5. With a gap: when counter >= gap - 1 and chance(reorder), the frame is due now, and counter = 0; otherwise counter
 *      grows until gap - 1.
 *   6. Not due now: with a jitter, r = correlated(delay). Uniform: delay - jitter + (r * 2 * jitter >> 32). By a table:
 *      delay + (jitter * table[r * entries >> 32] + 4096 >> 13), rounded down. Not below 0.
 * With a rate, a part (of a corrupted frame; otherwise the frame is one) that is not due now is due at
 * max(due of the last one, now + delay) + (its bytes * 10^9 + rest) / rate, and `rest` is what that division leaves. */
#ifndef IMPAIR_H
#define IMPAIR_H

#include "wire.h"

/* tc's tables are in units of 1/8192 of the jitter (NETEM_DIST_SCALE). */
#define TABLE_SHIFT 13

struct impairment {
    uint64_t delay_ns, jitter_ns, rate;
    uint32_t loss, duplicate, corrupt, reorder; /* of 2^32 - 1 */
    uint32_t correlation[DRAWS];
    uint32_t gap, max_frame;
    uint32_t entries; /* 0: a uniform distribution */
    const int16_t *table;
    struct impair_state state;
    uint64_t last_due_ns, rest; /* of the rate */
    uint64_t lost, duplicated, corrupted, reordered, too_long;
};

/* What happens to a frame, or to its copy. */
struct verdict {
    bool corrupt;
    bool at_once; /* reordered: before all that waits */
    uint32_t part, bit;
    uint64_t delay_ns;
};

/* Decide about one frame: how many of it go on, 0 to 2, with their verdicts. */
unsigned impair_decide(struct impairment *impair, const struct frame *frame, struct verdict verdicts[2]);

/* When a part of `len` bytes with this verdict is due. */
uint64_t impair_due(struct impairment *impair, const struct verdict *verdict, uint64_t now_ns, uint32_t len);

#endif
