/* Runs offload_complete for test_offload_program.py: requests on stdin, results on stdout, native byte order.
 *
 * Request: net_header, u32 pieces, u32 room, u32 length of each piece, then the bytes. Result: for each resulting frame
 * u32 1, its u32 length and bytes; then u32 0 and the offload_result. `room`: every room-th frame finds no room once; 0:
 * all find room. Each piece lies in memory of its own, so that a sanitizer sees every step too far. */
#include <stdio.h>
#include <stdlib.h>

#include "wire.h"

struct sink {
    uint32_t room, left;
};

static void get(void *to, size_t bytes)
{
    if (fread(to, 1, bytes, stdin) != bytes)
        exit(0);
}

static void put32(uint32_t value)
{
    fwrite(&value, sizeof value, 1, stdout);
}

static bool emit(void *context, const struct frame *part)
{
    struct sink *sink = context;
    if (sink->room && !sink->left--) {
        sink->left = sink->room;
        return false;
    }
    if (!frame_is_complete(part))
        abort();
    put32(1);
    put32(part->len);
    size_t total = 0;
    for (uint32_t i = 0; i < part->iovcnt; i++) {
        fwrite(part->iov[i].iov_base, 1, part->iov[i].iov_len, stdout);
        total += part->iov[i].iov_len;
    }
    if (total != part->len)
        abort();
    return true;
}

int main(void)
{
    for (;;) {
        struct frame frame = {0};
        struct sink sink;
        static uint32_t lengths[FRAME_IOV];
        static struct iovec iov[FRAME_IOV];
        get(&frame.hdr, sizeof frame.hdr);
        get(&frame.iovcnt, sizeof frame.iovcnt);
        get(&sink.room, sizeof sink.room);
        sink.left = sink.room;
        if (frame.iovcnt > FRAME_IOV)
            return 1;
        get(lengths, frame.iovcnt * sizeof *lengths);
        for (uint32_t i = 0; i < frame.iovcnt; i++) {
            iov[i] = (struct iovec){malloc(lengths[i]), lengths[i]};
            get(iov[i].iov_base, lengths[i]);
            frame.len += lengths[i];
        }
        frame.iov = iov;
        unsigned done = 0;
        enum offload_result result;
        do {
            result = offload_complete(&frame, &done, emit, &sink);
        } while (result == OFFLOAD_NO_ROOM);
        put32(0);
        put32(result);
        fflush(stdout);
        for (uint32_t i = 0; i < frame.iovcnt; i++)
            free(iov[i].iov_base);
    }
}
