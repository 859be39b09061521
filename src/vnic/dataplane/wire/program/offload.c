/* Software checksums and segmentation of frames with a virtio_net_hdr (virtio 1.2 §5.1.6): what wire.c does for a
 * destination that takes complete frames only. vnic's net/offload.py is the reference: same frames, same refusals. */
#include "wire.h"

#include <endian.h>
#include <string.h>

#include "sums.h"

enum {
    MAX_L4 = 1984, /* the transport header's offset in a frame that is segmented: each segment repeats the headers */

    ETH_BYTES = 14,
    MAX_VLAN_TAGS = 2,
    ETHERTYPE_V4 = 0x0800,
    ETHERTYPE_V6 = 0x86DD,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_FRAGMENT = 44,
    UDP_BYTES = 8,
    FRAGMENT_BYTES = 8,
    MAX_TCP_BYTES = 60,
    FIN_PSH = 0x09,
    CWR = 0x80,
};

/* What a resulting frame is made of: the thread uses them for one frame at a time. */
static _Thread_local uint8_t header[MAX_L4 + MAX_TCP_BYTES];
static _Thread_local struct iovec pieces[FRAME_IOV];

typedef bool emit_frame(void *context, const struct frame *part);

/* zlib.crc32 */
static uint32_t crc32(uint32_t crc, const uint8_t *at, size_t bytes)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    for (size_t i = 0; i < bytes; i++) {
        crc ^= at[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return crc;
}

/* -- a place in a frame ------------------------------------------------------------------------------------------ */

struct cursor {
    const struct iovec *iov;
    unsigned left; /* iovecs from `iov` on */
    size_t at; /* in *iov */
};

static struct cursor start_of(const struct frame *frame)
{
    return (struct cursor){frame->iov, frame->iovcnt, 0};
}

/* The bytes at the cursor that lie together, at most `bytes`; 0: the frame has no more. Moves the cursor behind them. */
static size_t next_piece(struct cursor *cursor, size_t bytes, uint8_t **piece)
{
    while (cursor->left && cursor->at == cursor->iov->iov_len) {
        cursor->iov++;
        cursor->left--;
        cursor->at = 0;
    }
    if (!cursor->left || !bytes)
        return 0;
    size_t found = cursor->iov->iov_len - cursor->at;
    if (found > bytes)
        found = bytes;
    *piece = (uint8_t *)cursor->iov->iov_base + cursor->at;
    cursor->at += found;
    return found;
}

static bool skip(struct cursor *cursor, size_t bytes)
{
    uint8_t *piece;
    while (bytes) {
        size_t found = next_piece(cursor, bytes, &piece);
        if (!found)
            return false;
        bytes -= found;
    }
    return true;
}

static bool copy_out(struct cursor *cursor, uint8_t *to, size_t bytes)
{
    uint8_t *piece;
    while (bytes) {
        size_t found = next_piece(cursor, bytes, &piece);
        if (!found)
            return false;
        memcpy(to, piece, found);
        to += found;
        bytes -= found;
    }
    return true;
}

/* Adds the sum of the next `bytes` to *sum. They begin at an even offset of what is summed. */
static bool sum_up(struct cursor *cursor, size_t bytes, uint64_t *sum)
{
    uint8_t *piece;
    bool odd = false;
    while (bytes) {
        size_t found = next_piece(cursor, bytes, &piece);
        if (!found)
            return false;
        unsigned part = ones_sum(piece, found);
        *sum += odd ? (part & 0xFF) << 8 | part >> 8 : part;
        odd ^= found & 1;
        bytes -= found;
    }
    return true;
}

/* -- what comes out ---------------------------------------------------------------------------------------------- */

/* One frame in the making: `count` of `pieces`. */
struct output {
    uint32_t count;
    size_t bytes;
};

static bool add(struct output *out, uint8_t *base, size_t bytes)
{
    if (!bytes)
        return true;
    if (out->count == FRAME_IOV)
        return false;
    pieces[out->count++] = (struct iovec){base, bytes};
    out->bytes += bytes;
    return true;
}

static bool add_pieces(struct output *out, struct cursor *cursor, size_t bytes)
{
    uint8_t *piece;
    while (bytes) {
        size_t found = next_piece(cursor, bytes, &piece);
        if (!found || !add(out, piece, found))
            return false;
        bytes -= found;
    }
    return true;
}

static bool emit_output(struct output *out, emit_frame *emit, void *context)
{
    struct frame frame = {.len = (uint32_t)out->bytes, .iovcnt = out->count, .iov = pieces};
    return emit(context, &frame);
}

/* -- one checksum ------------------------------------------------------------------------------------------------ */

static enum offload_result complete_checksum(const struct frame *frame, size_t start, size_t at, emit_frame *emit,
                                             void *context)
{
    size_t end = frame->len;
    if (start >= end || at + 2 > end)
        return OFFLOAD_BAD;
    struct cursor cursor = start_of(frame);
    uint64_t sum = 0;
    if (!skip(&cursor, start) || !sum_up(&cursor, end - start, &sum))
        return OFFLOAD_BAD;
    put16(header, checksum_of(sum));
    cursor = start_of(frame);
    struct output out = {0};
    if (!add_pieces(&out, &cursor, at) || !add(&out, header, 2) || !skip(&cursor, 2) ||
        !add_pieces(&out, &cursor, end - at - 2))
        return OFFLOAD_BAD;
    return emit_output(&out, emit, context) ? OFFLOAD_DONE : OFFLOAD_NO_ROOM;
}

/* -- segmentation ------------------------------------------------------------------------------------------------ */

/* The byte offsets of the headers of a frame to be segmented. */
struct layout {
    bool ipv6;
    bool tcp;
    size_t l3;
    size_t l4;
    size_t payload;
    size_t checksum;
};

static bool is_vlan(unsigned ethertype)
{
    return ethertype == 0x8100 || ethertype == 0x88A8 || ethertype == 0x9100;
}

/* Copies the headers into `header` once, so that the guest cannot change them after the checks; finds them, and checks
 * that all of them are inside the frame and agree with the offload header. hdr_len is an unreliable hint
 * (§5.1.6.2.1) and not used. */
static bool parse(const struct frame *frame, unsigned kind, size_t l4, unsigned csum_offset, struct layout *layout)
{
    size_t length = frame->len;
    bool tcp = kind == NET_GSO_TCPV4 || kind == NET_GSO_TCPV6;
    if (length < ETH_BYTES || l4 + (tcp ? 20 : UDP_BYTES) > length || l4 > MAX_L4 ||
        csum_offset != (tcp ? 16 : 6))
        return false;
    struct cursor cursor = start_of(frame);
    size_t copied = l4 + MAX_TCP_BYTES < length ? l4 + MAX_TCP_BYTES : length;
    if (!copy_out(&cursor, header, copied))
        return false;
    /* All headers up to the transport's must lie before l4, so that what is read here was copied. */
    if (l4 < ETH_BYTES + 20)
        return false;
    size_t l3 = ETH_BYTES;
    unsigned ethertype = get16(header + 12);
    for (int i = 0; i < MAX_VLAN_TAGS && is_vlan(ethertype) && length >= l3 + 4; i++) {
        ethertype = get16(header + l3 + 2);
        l3 += 4;
    }
    bool ipv6 = ethertype == ETHERTYPE_V6;
    if (ethertype == ETHERTYPE_V4 && kind != NET_GSO_TCPV6) {
        /* IHL gives the transport header's offset; the protocol field must be 6 or 17. */
        if (l4 < l3 + 20 || l3 + (header[l3] & 15u) * 4 != l4 || header[l3] >> 4 != 4)
            return false;
        if (header[l3 + 9] != (tcp ? PROTOCOL_TCP : PROTOCOL_UDP))
            return false;
    } else if (ipv6 && kind != NET_GSO_TCPV4) {
        /* There may be extension headers; the driver's csum_start already skips them. */
        if (l4 < l3 + 40 || header[l3] >> 4 != 6)
            return false;
    } else {
        return false;
    }
    size_t l4_bytes = tcp ? (header[l4 + 12] >> 4) * 4u : UDP_BYTES;
    if (l4_bytes < (tcp ? 20 : UDP_BYTES) || l4 + l4_bytes > length)
        return false;
    *layout = (struct layout){ipv6, tcp, l3, l4, l4 + l4_bytes, l4 + (tcp ? 16 : 6)};
    return true;
}

/* TSO and USO: each segment gets the headers with its lengths, sequence number, IP id and checksums.
 *
 * The checksum field holds the pseudo-header's sum with the whole length. Replacing that length with the segment's is
 * correct for IPv6 with a routing header, too, where the sum cannot be computed from the addresses. */
static enum offload_result segment(const struct frame *frame, const struct layout *layout, size_t size,
                                   emit_frame *emit, void *context, unsigned *done)
{
    size_t l3 = layout->l3, l4 = layout->l4, start = layout->payload, end = frame->len;
    size_t l4_bytes = start - l4;
    uint64_t pseudo = get16(header + layout->checksum) + 0xFFFF - (end - l4) % 0xFFFF;
    put16(header + layout->checksum, 0);
    uint32_t sequence = layout->tcp ? get32(header + l4 + 4) : 0;
    unsigned ip_id = layout->ipv6 ? 0 : get16(header + l3 + 4);
    unsigned last_flags = layout->tcp ? header[l4 + 13] : 0;
    uint32_t first_sequence = sequence;

    struct cursor payload = start_of(frame);
    size_t skipped = (size_t)*done * size; /* *done is at most OFFLOAD_SEGMENTS: it was counted here */
    if (skipped && skipped >= end - start)
        return OFFLOAD_DONE;
    if (!skip(&payload, start + skipped))
        return OFFLOAD_BAD;
    sequence += (uint32_t)skipped;
    ip_id += *done;

    size_t offset = start + skipped;
    do {
        size_t bytes = end - offset < size ? end - offset : size;
        bool last = offset + size >= end;
        size_t segment_bytes = l4_bytes + bytes;
        if (layout->ipv6) {
            put16(header + l3 + 4, (unsigned)(l4 - l3 - 40 + segment_bytes));
        } else {
            put16(header + l3 + 2, (unsigned)(l4 - l3 + segment_bytes));
            put16(header + l3 + 4, ip_id++ & 0xFFFF);
            ipv4_checksum(header + l3, l4 - l3);
        }
        if (layout->tcp) {
            put32(header + l4 + 4, sequence);
            unsigned flags = last ? last_flags : last_flags & ~(unsigned)FIN_PSH;
            header[l4 + 13] = (uint8_t)(sequence == first_sequence ? flags : flags & ~(unsigned)CWR);
            sequence += (uint32_t)size;
        } else {
            put16(header + l4 + 4, (unsigned)segment_bytes);
        }
        put16(header + layout->checksum, 0);
        uint64_t sum = pseudo + segment_bytes + ones_sum(header + l4, l4_bytes);
        struct cursor summed = payload;
        struct output out = {0};
        if (!sum_up(&summed, bytes, &sum) || !add(&out, header, start) || !add_pieces(&out, &payload, bytes))
            return OFFLOAD_BAD;
        put16(header + layout->checksum, checksum_of(sum));
        if (!emit_output(&out, emit, context))
            return OFFLOAD_NO_ROOM;
        ++*done;
        offset += size;
    } while (offset < end);
    return OFFLOAD_DONE;
}

/* UFO: checksum the datagram once, then cut what follows the IP header into fragments (RFC 791, RFC 8200 §4.5). */
static enum offload_result fragment(const struct frame *frame, const struct layout *layout, size_t size,
                                    emit_frame *emit, void *context, unsigned *done)
{
    size_t l3 = layout->l3, l4 = layout->l4, end = frame->len, header_bytes = l4;
    if ((layout->ipv6 && (l4 != l3 + 40 || header[l3 + 6] != PROTOCOL_UDP)) || end - l4 > 0xFFFF)
        return OFFLOAD_BAD;
    uint8_t udp[UDP_BYTES]; /* valid until the last fragment is emitted */
    memcpy(udp, header + l4, sizeof udp);
    struct cursor cursor = start_of(frame);
    uint64_t sum = ones_sum(udp, sizeof udp);
    if (!skip(&cursor, l4 + UDP_BYTES) || !sum_up(&cursor, end - l4 - UDP_BYTES, &sum))
        return OFFLOAD_BAD;
    put16(udp + 6, checksum_of(sum));
    if (layout->ipv6) {
        /* The identification must differ between datagrams of one flow that differ; a hash needs no state for that. */
        uint32_t crc = crc32(~0u, udp, sizeof udp);
        cursor = start_of(frame);
        if (!skip(&cursor, l4 + UDP_BYTES))
            return OFFLOAD_BAD;
        uint8_t *piece;
        for (size_t left = end - l4 - UDP_BYTES, found; left; left -= found) {
            found = next_piece(&cursor, left, &piece);
            if (!found)
                return OFFLOAD_BAD;
            crc = crc32(crc, piece, found);
        }
        header[l3 + 6] = PROTOCOL_FRAGMENT;
        header[l4] = PROTOCOL_UDP;
        header[l4 + 1] = 0;
        put32(header + l4 + 4, ~crc);
        header_bytes += FRAGMENT_BYTES;
    }
    size_t skipped = (size_t)*done * size;
    if (skipped >= end - l4)
        return OFFLOAD_DONE;
    cursor = start_of(frame);
    if (!skip(&cursor, l4 + (skipped ? skipped : UDP_BYTES)))
        return OFFLOAD_BAD;
    for (size_t offset = l4 + skipped; offset < end; offset += size) {
        size_t bytes = end - offset < size ? end - offset : size;
        unsigned more = offset + size < end;
        if (layout->ipv6) {
            put16(header + l3 + 4, (unsigned)(FRAGMENT_BYTES + bytes));
            put16(header + l3 + 42, (unsigned)(offset - l4) | more);
        } else {
            put16(header + l3 + 2, (unsigned)(l4 - l3 + bytes));
            put16(header + l3 + 6, (unsigned)(offset - l4) >> 3 | (more ? 0x2000 : 0));
            ipv4_checksum(header + l3, l4 - l3);
        }
        struct output out = {0};
        size_t own = offset == l4 ? UDP_BYTES : 0; /* size is a multiple of 8, so the first fragment has them all */
        if (!add(&out, header, header_bytes) || !add(&out, udp, own) || !add_pieces(&out, &cursor, bytes - own))
            return OFFLOAD_BAD;
        if (!emit_output(&out, emit, context))
            return OFFLOAD_NO_ROOM;
        ++*done;
    }
    return OFFLOAD_DONE;
}

/* -- the call ---------------------------------------------------------------------------------------------------- */

enum offload_result offload_complete(const struct frame *frame, unsigned *done, emit_frame *emit, void *context)
{
    const struct net_header *hdr = &frame->hdr;
    unsigned kind = hdr->gso_type & ~NET_GSO_ECN;
    size_t csum_start = le16toh(hdr->csum_start), csum_offset = le16toh(hdr->csum_offset);
    if (kind == NET_GSO_NONE) {
        if (!(hdr->flags & NET_NEEDS_CSUM)) {
            struct frame same = {.iov = frame->iov, .iovcnt = frame->iovcnt, .len = frame->len};
            return emit(context, &same) ? OFFLOAD_DONE : OFFLOAD_NO_ROOM;
        }
        return complete_checksum(frame, csum_start, csum_start + csum_offset, emit, context);
    }
    if (!(hdr->flags & NET_NEEDS_CSUM)) /* §5.1.6.2.1 */
        return OFFLOAD_BAD;
    size_t size = le16toh(hdr->gso_size);
    if (kind == NET_GSO_UDP)
        size &= ~(size_t)7; /* offsets of fragments count in units of 8 bytes */
    struct layout layout;
    if (!size || frame->len > FRAME_MAX ||
        !parse(frame, kind, csum_start, (unsigned)csum_offset, &layout))
        return OFFLOAD_BAD;
    size_t payload_bytes = frame->len - layout.payload;
    if (payload_bytes > size * OFFLOAD_SEGMENTS ||
        layout.payload - layout.l3 + (payload_bytes < size ? payload_bytes : size) > 0xFFFF)
        return OFFLOAD_BAD;
    if (kind == NET_GSO_UDP)
        return fragment(frame, &layout, size, emit, context, done);
    return segment(frame, &layout, size, emit, context, done);
}
