/* Blocks for frames that wait. See pool.h. */
#include "pool.h"

#include <string.h>
#include <sys/mman.h>

#define SLAB_BYTES (1u << 20)
#define SLAB_BLOCKS (SLAB_BYTES / BLOCK_BYTES - 1) /* the first one is the slab's own */
#define SLABS_KEPT 4u                              /* an empty pool keeps these */
#define SLABS_AT_ONCE 4u                           /* unmapping one takes some 30 us */

struct slab {
    struct slab *next, *previous;
};

static struct block *slab_block(struct slab *slab, uint32_t number)
{
    return (struct block *)(void *)slab + 1 + number;
}

static bool grow(struct pool *pool)
{
    struct slab *slab = mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (slab == MAP_FAILED)
        return false;
    *slab = (struct slab){pool->slabs, NULL};
    if (pool->slabs)
        pool->slabs->previous = slab;
    pool->slabs = slab;
    pool->slab_count++;
    pool->fresh_slab = slab;
    pool->fresh = 0;
    return true;
}

/* Used blocks first: they are in the cache. */
static struct block *take(struct pool *pool)
{
    struct block *block = pool->free;
    if (likely(block != NULL)) {
        pool->free = block->next;
        return block;
    }
    if (pool->fresh_slab && pool->fresh == SLAB_BLOCKS) {
        pool->fresh_slab = pool->fresh_slab->previous;
        pool->fresh = 0;
    }
    if (!pool->fresh_slab && !grow(pool))
        return NULL;
    return slab_block(pool->fresh_slab, pool->fresh++);
}

static void give(struct pool *pool, struct kept *kept)
{
    struct block *first = (struct block *)(void *)kept;
    if (kept->more) {
        kept->last->next = pool->free;
        pool->free = kept->more;
    }
    first->next = pool->free;
    pool->free = first;
}

static uint32_t blocks_of(uint32_t len)
{
    return len > KEPT_ROOM ? 1 + (len - KEPT_ROOM + BLOCK_ROOM - 1) / BLOCK_ROOM : 1;
}

static struct kept *take_blocks(struct pool *pool, uint32_t count)
{
    struct kept *kept = (struct kept *)(void *)take(pool);
    if (!kept)
        return NULL;
    kept->more = kept->last = NULL;
    for (uint32_t i = 1; i < count; i++) {
        struct block *block = take(pool);
        if (!block) {
            give(pool, kept);
            return NULL;
        }
        *(kept->last ? &kept->last->next : &kept->more) = block;
        kept->last = block;
    }
    pool->used += count;
    if (pool->used > pool->peak)
        pool->peak = pool->used;
    return kept;
}

static void drop_filling(struct pool *pool)
{
    if (unlikely(pool->filling != NULL))
        pool_free(pool, pool->filling);
    pool->filling = NULL;
}

struct kept *pool_keep(struct pool *pool, const struct frame *frame)
{
    drop_filling(pool);
    struct kept *kept = take_blocks(pool, blocks_of(frame->len));
    if (!kept)
        return NULL;
    kept->len = frame->len;
    kept->hdr = frame->hdr;
    pool->filling = kept;
    struct block *block = kept->more;
    uint8_t *to = kept->bytes;
    size_t room = KEPT_ROOM, left = frame->len;
    for (uint32_t i = 0; i < frame->iovcnt && left; i++) {
        const uint8_t *from = frame->iov[i].iov_base;
        size_t here = frame->iov[i].iov_len < left ? frame->iov[i].iov_len : left;
        left -= here;
        while (here) {
            if (!room) {
                to = block->bytes;
                room = BLOCK_ROOM;
                block = block->next;
            }
            size_t part = here < room ? here : room;
            memcpy(to, from, part);
            to += part;
            from += part;
            room -= part;
            here -= part;
        }
    }
    pool->filling = NULL;
    return kept;
}

void pool_free(struct pool *pool, struct kept *kept)
{
    pool->used -= blocks_of(kept->len);
    give(pool, kept);
}

void pool_is_empty(struct pool *pool)
{
    drop_filling(pool);
    uint32_t unused = pool->slab_count - pool->peak / SLAB_BLOCKS;
    pool->peak = 0;
    if (pool->slab_count <= SLABS_KEPT || 2 * unused < pool->slab_count)
        return;
    for (uint32_t i = 0; i < SLABS_AT_ONCE && pool->slab_count > SLABS_KEPT; i++) {
        struct slab *slab = pool->slabs;
        pool->slabs = slab->next;
        pool->slabs->previous = NULL;
        pool->slab_count--;
        munmap(slab, SLAB_BYTES);
    }
    /* All blocks are unused, from the oldest slab to the newest. */
    pool->free = NULL;
    pool->fresh = 0;
    pool->fresh_slab = pool->slabs;
    while (pool->fresh_slab->next)
        pool->fresh_slab = pool->fresh_slab->next;
}

void pool_close(struct pool *pool)
{
    for (struct slab *slab = pool->slabs, *next; slab; slab = next) {
        next = slab->next;
        munmap(slab, SLAB_BYTES);
    }
    *pool = (struct pool){0};
}

unsigned kept_pieces(const struct kept *kept, struct iovec *iov)
{
    size_t here = kept->len < KEPT_ROOM ? kept->len : KEPT_ROOM, left = kept->len - here;
    unsigned count = 0;
    iov[count++] = (struct iovec){(void *)(uintptr_t)kept->bytes, here};
    for (struct block *block = kept->more; left; block = block->next, left -= here) {
        here = left < BLOCK_ROOM ? left : BLOCK_ROOM;
        iov[count++] = (struct iovec){block->bytes, here};
    }
    return count;
}

uint8_t *kept_byte(struct kept *kept, uint32_t at)
{
    if (at < KEPT_ROOM)
        return kept->bytes + at;
    at -= KEPT_ROOM;
    struct block *block = kept->more;
    for (; at >= BLOCK_ROOM; at -= BLOCK_ROOM)
        block = block->next;
    return block->bytes + at;
}
