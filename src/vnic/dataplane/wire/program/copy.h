/* Copies of frames. vhost_port.c's inner loop calls them.
 *
 * Source and destination are guest memory, so they may overlap and change meanwhile: memmove, and no byte is read twice
 * where it matters. */
#ifndef COPY_H
#define COPY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* 16 bytes at once, in a register, whatever the compiler makes of a short memmove. */
typedef uint8_t copy_block __attribute__((vector_size(16), aligned(1), may_alias));

/* A whole frame, 14 bytes at least: short ones in line, since a call of memmove costs as much as they do. */
static inline void copy_frame(uint8_t *to, const uint8_t *from, size_t len)
{
    if (len < 16 || len > 256) {
        memmove(to, from, len);
        return;
    }
    copy_block last = *(const copy_block *)(const void *)(from + len - 16);
    size_t at = 0;
    for (; at + 16 < len; at += 16)
        *(copy_block *)(void *)(to + at) = *(const copy_block *)(const void *)(from + at);
    *(copy_block *)(void *)(to + len - 16) = last;
}

static inline void copy_bytes(uint8_t *to, const uint8_t *from, size_t len)
{
    memmove(to, from, len);
}

#endif
