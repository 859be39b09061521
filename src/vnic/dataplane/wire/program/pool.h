/* Memory for frames that wait in a line: blocks of one size, so that no frame needs malloc. line.c calls it.
 *
 * The pool grows by slabs as it is used, and gives them back, a few at a time, when it is empty. Who fills it bounds what
 * is taken. */
#ifndef POOL_H
#define POOL_H

#include "due.h"
#include "wire.h"

#define BLOCK_BYTES 2048u
#define BLOCK_ROOM (BLOCK_BYTES - (unsigned)sizeof(struct block *))

struct block {
    struct block *next;
    uint8_t bytes[BLOCK_ROOM];
};
_Static_assert(sizeof(struct block) == BLOCK_BYTES, "block");

/* A frame in its blocks. This is the first of them; the rest of the bytes is in the others. */
struct kept {
    struct block *more, *last; /* the other blocks; NULL: there is none */
    struct kept *next;         /* line.c's */
    struct due due;
    struct net_header hdr;
    uint16_t queue;
    uint32_t len;
    uint8_t bytes[];
};
#define KEPT_ROOM (BLOCK_BYTES - (unsigned)offsetof(struct kept, bytes)) /* a full-sized frame of Ethernet fits */
#define KEPT_IOV (1u + FRAME_MAX / BLOCK_ROOM)

struct slab;

struct pool {
    struct block *free;
    struct slab *slabs, *fresh_slab; /* the newest first; the one whose blocks were never used */
    uint32_t fresh;                  /* the first of them */
    uint32_t slab_count;
    uint32_t used, peak;             /* blocks; the most since the pool was empty */
    struct kept *filling;            /* a copy that a fault in guest memory may end half-way */
};

/* A copy of the frame. NULL: there is no memory. Its source may be guest memory. */
struct kept *pool_keep(struct pool *pool, const struct frame *frame);

void pool_free(struct pool *pool, struct kept *kept);

/* Nothing is in it: give back what its last use did not need. */
void pool_is_empty(struct pool *pool);

/* Give back all of it, and all that is in it. */
void pool_close(struct pool *pool);

/* The pieces of a kept frame: fills up to KEPT_IOV of them, and returns how many there are. */
unsigned kept_pieces(const struct kept *kept, struct iovec *iov);

/* The byte at this offset. */
uint8_t *kept_byte(struct kept *kept, uint32_t at);

#endif
