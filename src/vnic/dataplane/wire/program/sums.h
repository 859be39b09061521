/* Bytes in network order, and the Internet checksum. offload.c and join.c compute with them. */
#ifndef SUMS_H
#define SUMS_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static inline void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline uint32_t get32(const uint8_t *at)
{
    return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static inline void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value & 0xFFFF);
}

/* The one's complement sum of `data` as big-endian 16-bit words, below 0xffff; an odd last byte is a high half. */
static inline unsigned ones_sum(const void *data, size_t bytes)
{
    /* 2^16 leaves remainder 1 by 0xffff, so words of any multiple of 16 bits may be added, in the host's byte order, and
     * a carry counts 1; swapping the bytes of all words swaps those of the sum (RFC 1071 §2). */
    const uint8_t *at = data;
    uint64_t even = 0, odd = 0, rest = 0;
    while (bytes >= 32) {
        uint64_t words[4];
        memcpy(words, at, sizeof words);
        rest += __builtin_add_overflow(even, words[0], &even);
        rest += __builtin_add_overflow(odd, words[1], &odd);
        rest += __builtin_add_overflow(even, words[2], &even);
        rest += __builtin_add_overflow(odd, words[3], &odd);
        at += sizeof words;
        bytes -= sizeof words;
    }
    while (bytes >= 4) {
        uint32_t word;
        memcpy(&word, at, sizeof word);
        rest += word;
        at += sizeof word;
        bytes -= sizeof word;
    }
    if (bytes) {
        uint32_t word = 0;
        memcpy(&word, at, bytes);
        rest += word;
    }
    uint64_t sum = even % 0xFFFF + odd % 0xFFFF + rest;
    return be16toh((uint16_t)(sum % 0xFFFF));
}

/* The Internet checksum for a sum, as 0xffff where it would be 0, since 0 means "none" to UDP. */
static inline unsigned checksum_of(uint64_t sum)
{
    return 0xFFFF - (unsigned)(sum % 0xFFFF);
}

static inline void ipv4_checksum(uint8_t *ip, size_t bytes)
{
    put16(ip + 10, 0);
    put16(ip + 10, checksum_of(ones_sum(ip, bytes)) % 0xFFFF);
}

#endif
