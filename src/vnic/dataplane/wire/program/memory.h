/* A guest's memory: the regions of SET_MEM_TABLE, mapped, and what happens when such a file is truncated.
 *
 * vhost_user.c makes the tables; ring.c and vhost_port.c translate every address of a guest through them. */
#ifndef MEMORY_H
#define MEMORY_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REGIONS_MAX 8u /* VHOST_MEMORY_BASELINE_NREGIONS */

struct region {
    uint64_t guest; /* guest address of the first byte */
    uint64_t size;
    uint64_t user;  /* the front-end's address of the first byte */
    uint8_t *base;  /* ours */
    void *map;
    size_t map_size;
};

struct memory {
    struct memory *next; /* discarded */
    unsigned count;
    struct region regions[];
};

/* One region as the front-end declares it; `fd` stays the caller's. */
struct region_request {
    uint64_t guest, size, user, offset;
    int fd;
};

/* Map 1 to REGIONS_MAX regions. NULL with one line of text when one of them is not possible. */
struct memory *memory_map(const struct region_request *requests, unsigned count, char *text, size_t text_size);
void memory_unmap(struct memory *memory); /* NULL is allowed */

/* Main thread. Unmapping many GiB takes some 100 ms: what is discarded under a worker's lock is unmapped without it. */
void memory_discard(struct memory *memory); /* NULL is allowed */
void memory_unmap_discarded(void);

/* The region that holds the guest address, or NULL. */
static inline const struct region *memory_find(const struct memory *memory, uint64_t guest)
{
    for (unsigned i = 0; i < memory->count; i++)
        if (guest - memory->regions[i].guest < memory->regions[i].size)
            return &memory->regions[i];
    return NULL;
}

/* Our address of `size` bytes (> 0) at a front-end's address; NULL unless one region holds them all. */
void *memory_user(const struct memory *memory, uint64_t user, uint64_t size);

/* Whether our address lies in it. */
bool memory_holds(const struct memory *memory, const void *address);

/* SIGBUS: a file of guest memory was truncated. A thread that touches guest memory does so between setting and clearing
 * `armed`; a fault there jumps to `env` with the address in `address`. Without `armed` the process ends. */
struct fault {
    sigjmp_buf env;
    volatile bool armed;
    const void *volatile address;
};
extern _Thread_local struct fault fault;

/* sigsetjmp's second argument. The thread sanitizer blocks all signals while a handler runs, whatever its flags. */
#ifdef __SANITIZE_THREAD__
#define FAULT_MASK 1
#else
#define FAULT_MASK 0
#endif
void fault_catch(void); /* once, before the first thread */

/* Run `access` under the guard. False: it met a fault half-way. For the main thread's few accesses. */
bool fault_guarded(void (*access)(void *), void *context);

#endif
