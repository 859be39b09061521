/* filter-dump: copies of a port's frames as records of a pcap file (pcap-savefile(5); filter/dump.py of vnic).
 *
 * The file is a regular one, so that a write does not wait for a reader. Whole records are written at once, so that a
 * reader of the growing file finds no half ones. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ends.h"

struct dump {
    struct dump *next;
    uint32_t id;
    uint32_t snaplen;
    uint32_t direction;
    int fd;
};

struct record {
    uint32_t seconds;
    uint32_t us;
    uint32_t kept;
    uint32_t len;
};
_Static_assert(sizeof(struct record) == 16, "a record's header, in the byte order of the file's");

int dump_add(struct port *port, uint32_t id, uint32_t snaplen, uint32_t direction, int fd)
{
    struct stat found;
    for (struct dump *each = port->dumps; each; each = each->next)
        if (each->id == id)
            return EEXIST;
    if (!snaplen || !direction || direction & ~(uint32_t)DUMP_ALL)
        return EINVAL;
    if (fstat(fd, &found))
        return errno;
    if (!S_ISREG(found.st_mode))
        return ESPIPE;
    struct dump *dump = malloc(sizeof *dump);
    if (!dump)
        return ENOMEM;
    *dump = (struct dump){port->dumps, id, snaplen, direction, fd};
    port->dumps = dump;
    return 0;
}

static void drop(struct dump **at)
{
    struct dump *dump = *at;
    *at = dump->next;
    close(dump->fd);
    free(dump);
}

int dump_remove(struct port *port, uint32_t id)
{
    for (struct dump **at = &port->dumps; *at; at = &(*at)->next) {
        if ((*at)->id == id) {
            drop(at);
            return 0;
        }
    }
    return ENOENT;
}

void dump_remove_all(struct port *port)
{
    while (port->dumps)
        drop(&port->dumps);
}

/* Write all of it. 0, or an errno after what was written of the last record is taken back. `ends`: the bytes up to the
 * end of each record. */
static int write_records(int fd, struct iovec *iov, unsigned count, const size_t *ends, unsigned records)
{
    size_t done = 0, total = ends[records - 1];
    while (done < total) {
        ssize_t now = writev(fd, iov, (int)count);
        if (now < 0) {
            int error = errno;
            if (error == EINTR)
                continue;
            size_t whole = 0;
            for (unsigned i = 0; i < records && ends[i] <= done; i++)
                whole = ends[i];
            off_t end = lseek(fd, 0, SEEK_CUR);
            /* A partial record would make the file unreadable from there on. */
            if (done > whole && (end < 0 || ftruncate(fd, end - (off_t)(done - whole)) ||
                                 lseek(fd, end - (off_t)(done - whole), SEEK_SET) < 0))
                return errno;
            return error;
        }
        done += (size_t)now;
        while (count && (size_t)now >= iov->iov_len) {
            now -= (ssize_t)iov->iov_len;
            iov++;
            count--;
        }
        if (count) {
            iov->iov_base = (uint8_t *)iov->iov_base + now;
            iov->iov_len -= (size_t)now;
        }
    }
    return 0;
}

/* The iovecs of one record. Returns their number; 0: they do not fit into `room`. */
static unsigned put_record(struct iovec *iov, unsigned room, struct record *record, const struct frame *frame)
{
    unsigned count = 0;
    if (room < 2)
        return 0;
    iov[count++] = (struct iovec){record, sizeof *record};
    size_t left = record->kept;
    for (uint32_t k = 0; k < frame->iovcnt && left; k++) {
        if (count == room)
            return 0;
        size_t part = frame->iov[k].iov_len < left ? frame->iov[k].iov_len : left;
        iov[count++] = (struct iovec){frame->iov[k].iov_base, part};
        left -= part;
    }
    return count;
}

static int dump_write(const struct dump *dump, const struct timespec *now, const struct frame *frames, unsigned n)
{
    while (n) {
        struct record records[BATCH];
        struct iovec iov[END_IOV];
        size_t ends[BATCH], bytes = 0;
        unsigned count = 0, taken = 0;
        while (taken < n && taken < BATCH) {
            const struct frame *frame = &frames[taken];
            struct record *record = &records[taken];
            uint32_t kept = frame->len < dump->snaplen ? frame->len : dump->snaplen;
            *record = (struct record){(uint32_t)now->tv_sec, (uint32_t)(now->tv_nsec / 1000), kept, frame->len};
            unsigned used = put_record(iov + count, END_IOV - count, record, frame);
            if (!used && taken)
                break;
            if (!used) {
                const uint8_t *whole = end_gather(frame);
                if (!whole)
                    return ENOMEM;
                iov[0] = (struct iovec){record, sizeof *record};
                iov[1] = (struct iovec){(void *)(uintptr_t)whole, kept};
                used = 2;
            }
            count += used;
            bytes += sizeof *record + kept;
            ends[taken++] = bytes;
        }
        int error = write_records(dump->fd, iov, count, ends, taken);
        if (error && error != EFAULT) /* guest memory whose file was truncated: its frames are left out */
            return error;
        frames += taken;
        n -= taken;
    }
    return 0;
}

/* All dumps of a port have the same time for a frame. */
void dump_frames(struct port *port, uint32_t direction, const struct frame *frames, unsigned n)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (struct dump **at = &port->dumps; *at;) {
        struct dump *dump = *at;
        int error = dump->direction & direction ? dump_write(dump, &now, frames, n) : 0;
        if (error) {
            event_dump_failed(dump->id, error);
            drop(at);
        } else {
            at = &dump->next;
        }
    }
}
