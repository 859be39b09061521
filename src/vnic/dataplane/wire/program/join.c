/* See join.h. */
#include "join.h"

#include <endian.h>
#include <string.h>

#include "sums.h"

enum {
    ETH = 14,
    IPV4 = 20, /* without options */
    IPV6 = 40, /* without extension headers */
    TCP = 20,
    IP_MAX = 65535,
    TCP_CHECKSUM = 16,
    DONT_FRAGMENT = 0x4000,
    ACK = 0x10,
    PSH = 0x08,
    PROTOCOL_TCP = 6,
};

struct tcp {
    uint8_t *l3, *l4;
    unsigned l4_at;  /* of the frame */
    unsigned header; /* bytes of TCP's */
    size_t payload;
    bool ipv6;
};

/* False: it is not a plain segment with data. Its checksums are not looked at. */
static bool parse(const struct segment *segment, struct tcp *tcp)
{
    uint8_t *bytes = segment->bytes;
    size_t len = segment->len;
    if (len < ETH + IPV4 + TCP)
        return false;
    unsigned type = get16(bytes + 12);
    tcp->l3 = bytes + ETH;
    if (type == 0x0800) {
        if (tcp->l3[0] != 0x45 || get16(tcp->l3 + 2) != len - ETH || get16(tcp->l3 + 6) & ~(unsigned)DONT_FRAGMENT ||
            tcp->l3[9] != PROTOCOL_TCP)
            return false;
        tcp->ipv6 = false;
        tcp->l4_at = ETH + IPV4;
    } else if (type == 0x86DD) {
        if (len < ETH + IPV6 + TCP || tcp->l3[0] >> 4 != 6 || get16(tcp->l3 + 4) != len - ETH - IPV6 ||
            tcp->l3[6] != PROTOCOL_TCP)
            return false;
        tcp->ipv6 = true;
        tcp->l4_at = ETH + IPV6;
    } else {
        return false;
    }
    tcp->l4 = bytes + tcp->l4_at;
    tcp->header = tcp->l4[12] >> 4 << 2;
    if (tcp->header < TCP || tcp->l4_at + tcp->header >= len || (tcp->l4[13] & ~(unsigned)PSH) != ACK)
        return false;
    tcp->payload = len - tcp->l4_at - tcp->header;
    return true;
}

static uint64_t pseudo_header(const struct tcp *tcp, size_t l4_bytes)
{
    return l4_bytes + PROTOCOL_TCP + (tcp->ipv6 ? ones_sum(tcp->l3 + 8, 32) : ones_sum(tcp->l3 + 12, 8));
}

static bool sums_are_right(const struct tcp *tcp)
{
    size_t l4_bytes = tcp->header + tcp->payload;
    if (!tcp->ipv6 && ones_sum(tcp->l3, IPV4) % 0xFFFF)
        return false;
    return (pseudo_header(tcp, l4_bytes) + ones_sum(tcp->l4, l4_bytes)) % 0xFFFF == 0;
}

/* Whether `next` goes on where `count` segments from `first` on ended, of which each has its size and `bytes` is the sum. */
static bool goes_on(const struct tcp *first, const struct tcp *next, unsigned count, size_t bytes)
{
    const uint8_t *a = first->l3, *b = next->l3;
    if (first->ipv6 != next->ipv6 || memcmp(a - ETH, b - ETH, ETH))
        return false;
    if (first->ipv6) {
        if (memcmp(a, b, 4) || memcmp(a + 6, b + 6, IPV6 - 6))
            return false;
    } else {
        if (a[1] != b[1] || memcmp(a + 6, b + 6, 4) || memcmp(a + 12, b + 12, 8))
            return false;
        if (!(get16(a + 6) & DONT_FRAGMENT) && get16(b + 4) != ((get16(a + 4) + count) & 0xFFFF))
            return false;
    }
    a = first->l4;
    b = next->l4;
    return !memcmp(a, b, 4) && get32(b + 4) == (uint32_t)(get32(a + 4) + bytes) && !memcmp(a + 8, b + 8, 4) &&
           first->header == next->header && a[12] == b[12] && !memcmp(a + 14, b + 14, 2) &&
           !memcmp(a + 18, b + 18, first->header - 18) && next->payload <= first->payload &&
           first->l4_at - ETH + first->header + bytes + next->payload <= IP_MAX;
}

/* The first segment's headers become those of all. */
static void finish(const struct tcp *first, size_t bytes, bool push, struct frame *frame)
{
    size_t l4_bytes = first->header + bytes;
    if (first->ipv6) {
        put16(first->l3 + 4, (unsigned)l4_bytes);
    } else {
        put16(first->l3 + 2, (unsigned)(IPV4 + l4_bytes));
        ipv4_checksum(first->l3, IPV4);
    }
    if (push)
        first->l4[13] |= PSH;
    put16(first->l4 + TCP_CHECKSUM, (unsigned)(pseudo_header(first, l4_bytes) % 0xFFFF));
    frame->len = (uint32_t)(first->l4_at + l4_bytes);
    frame->hdr = (struct net_header){
        .flags = NET_NEEDS_CSUM,
        .gso_type = first->ipv6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4,
        .hdr_len = htole16((uint16_t)(first->l4_at + first->header)),
        .gso_size = htole16((uint16_t)first->payload),
        .csum_start = htole16((uint16_t)first->l4_at),
        .csum_offset = htole16(TCP_CHECKSUM),
    };
}

unsigned join_segments(const struct segment *segments, unsigned n, uint32_t takes, struct frame *frame,
                       struct iovec *iov)
{
    struct tcp first, next;
    iov[0] = (struct iovec){segments[0].bytes, segments[0].len};
    *frame = (struct frame){.iov = iov, .iovcnt = 1, .len = (uint32_t)segments[0].len};
    if (n < 2 || !takes || !parse(&segments[0], &first) || first.l4[13] & PSH ||
        !(takes >> (first.ipv6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4) & 1))
        return 1;
    unsigned count = 1;
    size_t bytes = first.payload;
    bool push = false, ends = false;
    while (count < n && count < JOIN_MAX && !ends && parse(&segments[count], &next) &&
           goes_on(&first, &next, count, bytes) && (count > 1 || sums_are_right(&first)) && sums_are_right(&next)) {
        iov[count++] = (struct iovec){next.l4 + next.header, next.payload};
        bytes += next.payload;
        push = next.l4[13] & PSH;
        ends = push || next.payload < first.payload;
    }
    if (count > 1) {
        finish(&first, bytes, push, frame);
        frame->iovcnt = count;
    }
    return count;
}
