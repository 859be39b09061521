/* Joins TCP segments that follow each other into one frame to be segmented, as the kernel's GRO does: a guest that takes
 * such frames has the work of one. tunnel_socket.c calls it. */
#ifndef JOIN_H
#define JOIN_H

#include "wire.h"

#define JOIN_MAX 64u /* segments of one frame, at most */

/* An Ethernet frame that was received whole, in memory that may be written to. */
struct segment {
    uint8_t *bytes;
    size_t len;
};

/* Make one frame of the first segments, up to JOIN_MAX; of one, unchanged, unless more belong together and `takes` has
 * the bit of their gso_type (1 << NET_GSO_TCPV4, 1 << NET_GSO_TCPV6). What is joined can be segmented again into the same
 * frames: checksums are right, sizes equal but for the last one, numbers consecutive, all else is equal. Returns how many
 * segments it took; `iov` has room for as many. */
unsigned join_segments(const struct segment *segments, unsigned n, uint32_t takes, struct frame *frame,
                       struct iovec *iov);

#endif
