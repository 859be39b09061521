/* Runs impair.c for test_impair_differential.py: a message_impair with its table on stdin, then frames; native byte order.
 *
 * A frame: u64 time in ns, net_header, u16 0, u32 length, then its bytes. The answer: the state, the counters, u32 copies;
 * then for each copy u32 corrupt, u32 at_once, u64 the time at which it is due. */
#include <stdio.h>
#include <stdlib.h>

#include "impair.h"

static bool get(void *to, size_t bytes)
{
    return fread(to, 1, bytes, stdin) == bytes;
}

static void put(const void *from, size_t bytes)
{
    fwrite(from, 1, bytes, stdout);
}

int main(void)
{
    static int16_t table[IMPAIR_ENTRIES_MAX];
    struct message_impair body;
    if (!get(&body, sizeof body) || body.entries > IMPAIR_ENTRIES_MAX || !get(table, body.entries * sizeof *table))
        return 1;
    struct impairment impair = {
        .delay_ns = body.delay_ns,
        .jitter_ns = body.jitter_ns,
        .rate = body.rate,
        .loss = body.loss,
        .duplicate = body.duplicate,
        .corrupt = body.corrupt,
        .reorder = body.reorder,
        .gap = body.gap,
        .max_frame = body.max_frame,
        .entries = body.entries,
        .table = table,
        .state = body.state,
    };
    for (unsigned i = 0; i < DRAWS; i++)
        impair.correlation[i] = body.correlation[i];
    for (;;) {
        struct {
            uint64_t now;
            struct net_header hdr;
            uint16_t zero;
            uint32_t len;
        } head;
        if (!get(&head, sizeof head))
            return 0;
        uint8_t *bytes = malloc(head.len);
        if (!bytes || !get(bytes, head.len))
            return 1;
        struct iovec iov[] = {{bytes, head.len / 3}, {bytes + head.len / 3, head.len - head.len / 3}};
        struct frame frame = {.iov = iov, .iovcnt = 2, .len = head.len, .hdr = head.hdr};
        struct verdict verdicts[2];
        uint32_t copies = impair_decide(&impair, &frame, verdicts);
        uint64_t due[2];
        for (uint32_t i = 0; i < copies; i++)
            due[i] = impair_due(&impair, &verdicts[i], head.now, head.len);
        uint64_t counts[] = {impair.lost, impair.duplicated, impair.corrupted, impair.reordered, impair.too_long};
        put(&impair.state, sizeof impair.state);
        put(counts, sizeof counts);
        put(&copies, sizeof copies);
        for (uint32_t i = 0; i < copies; i++) {
            uint32_t flags[] = {verdicts[i].corrupt, verdicts[i].at_once};
            put(flags, sizeof flags);
            put(&due[i], sizeof due[i]);
        }
        free(bytes);
    }
}
