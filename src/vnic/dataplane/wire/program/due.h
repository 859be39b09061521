/* A heap of what is due at some time, the earliest first. line.c orders a line's frames with it, and worker.c its lines.
 *
 * What is ordered has a `struct due` in it. Those that are due at the same time keep the order of their numbers. */
#ifndef DUE_H
#define DUE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct due {
    uint64_t ns;
    uint64_t number;
    uint32_t place; /* in the heap, from 1; 0: it is in none */
};

struct due_heap {
    struct due **items; /* items[1] is the first to be due */
    uint32_t count, room;
};

static inline bool due_before(const struct due *one, const struct due *other)
{
    return one->ns != other->ns ? one->ns < other->ns : one->number < other->number;
}

/* Make room for so many. False: there is no memory. */
static inline bool due_reserve(struct due_heap *heap, uint32_t count)
{
    if (count < heap->room)
        return true;
    uint32_t room = heap->room ? heap->room : 64;
    while (room <= count)
        room *= 2;
    struct due **items = realloc(heap->items, room * sizeof *items);
    if (!items)
        return false;
    heap->items = items;
    heap->room = room;
    return true;
}

static inline void due_put(struct due_heap *heap, struct due *due, uint32_t place)
{
    heap->items[place] = due;
    due->place = place;
}

static inline void due_raise(struct due_heap *heap, struct due *due, uint32_t place)
{
    for (; place > 1 && due_before(due, heap->items[place / 2]); place /= 2)
        due_put(heap, heap->items[place / 2], place);
    due_put(heap, due, place);
}

static inline void due_sink(struct due_heap *heap, struct due *due, uint32_t place)
{
    for (uint32_t below; (below = 2 * place) <= heap->count; place = below) {
        if (below < heap->count && due_before(heap->items[below + 1], heap->items[below]))
            below++;
        if (!due_before(heap->items[below], due))
            break;
        due_put(heap, heap->items[below], place);
    }
    due_put(heap, due, place);
}

/* There is room for it. */
static inline void due_insert(struct due_heap *heap, struct due *due)
{
    due_raise(heap, due, ++heap->count);
}

static inline struct due *due_first(const struct due_heap *heap)
{
    return heap->count ? heap->items[1] : NULL;
}

static inline void due_remove(struct due_heap *heap, struct due *due)
{
    uint32_t place = due->place;
    struct due *last = heap->items[heap->count--];
    due->place = 0;
    if (last == due)
        return;
    if (place > 1 && due_before(last, heap->items[place / 2]))
        due_raise(heap, last, place);
    else
        due_sink(heap, last, place);
}

#endif
