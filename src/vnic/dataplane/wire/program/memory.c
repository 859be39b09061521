/* Maps a guest's memory, translates addresses, and catches SIGBUS. See memory.h. */
#include "memory.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_MAX (UINT64_C(1) << 34) /* the largest huge page of any processor */

_Thread_local struct fault fault;

static bool overlaps(const struct memory *memory, const struct region_request *request)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct region *region = &memory->regions[i];
        if (request->guest < region->guest + region->size && region->guest < request->guest + request->size)
            return true;
    }
    return false;
}

/* What the file is mapped in: hugetlbfs maps and unmaps whole huge pages only, and st_blksize is their size there. */
static uint64_t page_of(const struct stat *info)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), block = (uint64_t)info->st_blksize;
    return block > page && block <= PAGE_MAX && !(block & (block - 1)) ? block : page;
}

static bool map_region(struct memory *memory, const struct region_request *request, char *text, size_t text_size)
{
    if (!request->size || request->guest + request->size < request->guest ||
        request->user + request->size < request->user || request->offset + request->size < request->offset ||
        request->size > (UINT64_C(1) << 46)) {
        snprintf(text, text_size, "a memory region of %#llx bytes at %#llx", (unsigned long long)request->size,
                 (unsigned long long)request->guest);
        return false;
    }
    if (overlaps(memory, request)) {
        snprintf(text, text_size, "memory regions overlap at %#llx", (unsigned long long)request->guest);
        return false;
    }
    struct stat info;
    if (fstat(request->fd, &info) || !S_ISREG(info.st_mode) ||
        (uint64_t)info.st_size < request->offset + request->size) {
        snprintf(text, text_size, "the memory region at %#llx is not within its file",
                 (unsigned long long)request->guest);
        return false;
    }
    uint64_t page = page_of(&info), skipped = request->offset % page;
    size_t map_size = (size_t)((request->size + skipped + page - 1) / page * page);
    void *map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, request->fd,
                     (off_t)(request->offset - skipped));
    if (map == MAP_FAILED) {
        snprintf(text, text_size, "the memory region at %#llx cannot be mapped: %s",
                 (unsigned long long)request->guest, strerror(errno));
        return false;
    }
    memory->regions[memory->count++] = (struct region){
        .guest = request->guest,
        .size = request->size,
        .user = request->user,
        .base = (uint8_t *)map + skipped,
        .map = map,
        .map_size = map_size,
    };
    return true;
}

struct memory *memory_map(const struct region_request *requests, unsigned count, char *text, size_t text_size)
{
    struct memory *memory = calloc(1, sizeof *memory + count * sizeof memory->regions[0]);
    if (!memory) {
        snprintf(text, text_size, "%s", strerror(ENOMEM));
        return NULL;
    }
    for (unsigned i = 0; i < count; i++)
        if (!map_region(memory, &requests[i], text, text_size)) {
            memory_unmap(memory);
            return NULL;
        }
    return memory;
}

void memory_unmap(struct memory *memory)
{
    if (!memory)
        return;
    for (unsigned i = 0; i < memory->count; i++)
        munmap(memory->regions[i].map, memory->regions[i].map_size);
    free(memory);
}

static struct memory *discarded;

void memory_discard(struct memory *memory)
{
    if (!memory)
        return;
    memory->next = discarded;
    discarded = memory;
}

void memory_unmap_discarded(void)
{
    while (discarded) {
        struct memory *memory = discarded;
        discarded = memory->next;
        memory_unmap(memory);
    }
}

void *memory_user(const struct memory *memory, uint64_t user, uint64_t size)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct region *region = &memory->regions[i];
        uint64_t at = user - region->user;
        if (at < region->size && size <= region->size - at)
            return region->base + at;
    }
    return NULL;
}

bool memory_holds(const struct memory *memory, const void *address)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct region *region = &memory->regions[i];
        if ((uintptr_t)address - (uintptr_t)region->map < region->map_size)
            return true;
    }
    return false;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (fault.armed) {
        fault.armed = false;
        fault.address = info->si_addr;
        siglongjmp(fault.env, 1);
    }
    signal(number, SIG_DFL); /* returns to the same instruction, and ends the process */
}

void fault_catch(void)
{
    /* SA_NODEFER: the jump out of the handler does not restore the signal mask, which would cost a system call at every
     * sigsetjmp. */
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

bool fault_guarded(void (*access)(void *), void *context)
{
    if (sigsetjmp(fault.env, FAULT_MASK))
        return false;
    fault.armed = true;
    access(context);
    fault.armed = false;
    return true;
}
