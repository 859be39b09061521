/* What the ports with descriptors of frames share. See ends.h. */
#include "ends.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- memory of the thread ----------------------------------------------------------------------------------------- */

static uint8_t *once(uint8_t **memory, size_t bytes)
{
    if (unlikely(!*memory))
        *memory = malloc(bytes);
    return *memory;
}

uint8_t *end_pool(void)
{
    static _Thread_local uint8_t *pool;
    return once(&pool, END_POOL);
}

const uint8_t *end_gather(const struct frame *frame)
{
    static _Thread_local uint8_t *whole;
    if (!once(&whole, FRAME_MAX))
        return NULL;
    size_t at = 0;
    for (uint32_t i = 0; i < frame->iovcnt && at < frame->len; i++) {
        size_t part = frame->iov[i].iov_len < frame->len - at ? frame->iov[i].iov_len : frame->len - at;
        memcpy(whole + at, frame->iov[i].iov_base, part);
        at += part;
    }
    return whole;
}

/* -- to the far end ----------------------------------------------------------------------------------------------- */

struct parts {
    struct port *port;
    unsigned queue;
    end_send *send;
};

static bool send_part(void *context, const struct frame *part)
{
    struct parts *parts = context;
    struct port *port = parts->port;
    if (port->lost) {
        port->stats.no_peer++;
        return true;
    }
    if (part->len > port->max_frame) {
        port->stats.too_long++;
        return true;
    }
    return parts->send(port, parts->queue, part, 1) == 1;
}

unsigned end_receive(struct port *port, unsigned queue, const struct frame *frames, unsigned n, end_send *send)
{
    bool takes_all = port->flags & PORT_OFFLOAD;
    unsigned at = 0, before = parts_before(port);
    while (at < n) {
        unsigned end = at;
        while (end < n && (takes_all || frame_is_complete(&frames[end])) && frames[end].len <= port->max_frame)
            end++;
        if (port->lost) {
            port->stats.no_peer += n - at;
            break;
        }
        if (end > at) {
            unsigned taken = send(port, queue, frames + at, end - at);
            at += taken;
            if (at < end)
                return at;
            continue;
        }
        if (takes_all || frame_is_complete(&frames[at])) {
            port->stats.too_long++;
        } else {
            struct parts parts = {port, queue, send};
            unsigned done = at == 0 ? before : 0;
            enum offload_result result = offload_complete(&frames[at], &done, send_part, &parts);
            if (result == OFFLOAD_NO_ROOM && parts_wait(port, done))
                return at;
            port->stats.bad_offload += result == OFFLOAD_BAD;
        }
        at++;
    }
    return n;
}

int end_send_datagrams(int fd, const struct sockaddr_storage *name, socklen_t name_len, bool header,
                       const struct frame *frames, unsigned n)
{
    struct mmsghdr messages[BATCH];
    struct net_header headers[BATCH];
    struct iovec iov[END_IOV];
    unsigned pieces = 0, count = 0;
    while (count < n && count < BATCH) {
        const struct frame *frame = &frames[count];
        bool long_list = frame->iovcnt > END_IOV - 1;
        if (pieces + 1 + (long_list ? 1 : frame->iovcnt) > END_IOV || (long_list && count))
            break;
        struct iovec *first = &iov[pieces];
        if (header) {
            headers[count] = end_pending(frame->hdr);
            iov[pieces++] = (struct iovec){&headers[count], sizeof headers[count]};
        }
        if (long_list) {
            iov[pieces++] = (struct iovec){(void *)(uintptr_t)end_gather(frame), frame->len};
        } else {
            for (uint32_t k = 0; k < frame->iovcnt; k++)
                iov[pieces++] = frame->iov[k];
        }
        memset(&messages[count], 0, sizeof messages[count]);
        messages[count].msg_hdr.msg_name = (void *)(uintptr_t)name;
        messages[count].msg_hdr.msg_namelen = name_len;
        messages[count].msg_hdr.msg_iov = first;
        messages[count].msg_hdr.msg_iovlen = (size_t)(&iov[pieces] - first);
        count++;
        if (long_list)
            break;
    }
    int done;
    do {
        done = sendmmsg(fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
}

/* -- from the far end --------------------------------------------------------------------------------------------- */

struct kept {
    struct net_header hdr;
    uint32_t len;
};

bool backlog_send(struct backlog *backlog, struct port *port, unsigned queue, unsigned *moved)
{
    while (backlog->at < backlog->end) {
        struct frame frames[BATCH];
        struct iovec iov[BATCH];
        unsigned n = 0;
        for (size_t at = backlog->at; at < backlog->end && n < BATCH; n++) {
            struct kept kept;
            memcpy(&kept, backlog->bytes + at, sizeof kept);
            iov[n] = (struct iovec){backlog->bytes + at + sizeof kept, kept.len};
            frames[n] = (struct frame){.iov = &iov[n], .iovcnt = 1, .len = kept.len, .hdr = kept.hdr};
            at += sizeof kept + kept.len;
        }
        unsigned taken = wire_send(port, queue, frames, n);
        *moved += taken;
        for (unsigned i = 0; i < taken; i++)
            backlog->at += sizeof(struct kept) + frames[i].len;
        if (taken < n)
            return false;
    }
    return true;
}

/* Make room for so many bytes behind those that wait. False: there is no memory. */
static bool make_room(struct backlog *backlog, size_t bytes)
{
    size_t waiting = backlog->end - backlog->at;
    if (waiting + bytes > backlog->room) {
        size_t room = 2 * waiting + bytes;
        uint8_t *larger = malloc(room);
        if (!larger)
            return false;
        if (waiting)
            memcpy(larger, backlog->bytes + backlog->at, waiting);
        free(backlog->bytes);
        *backlog = (struct backlog){.bytes = larger, .room = room, .end = waiting};
    } else if (backlog->end + bytes > backlog->room) {
        memmove(backlog->bytes, backlog->bytes + backlog->at, waiting);
        backlog->at = 0;
        backlog->end = waiting;
    }
    return true;
}

unsigned backlog_add(struct backlog *backlog, const struct frame *frames, unsigned n, size_t most)
{
    size_t bytes = 0;
    unsigned fit = 0;
    for (; fit < n; fit++) {
        size_t more = sizeof(struct kept) + frames[fit].len;
        if (backlog->end - backlog->at + bytes + more > most)
            break;
        bytes += more;
    }
    if (!make_room(backlog, bytes))
        return n;
    for (unsigned i = 0; i < fit; i++) {
        uint8_t *to = backlog->bytes + backlog->end;
        struct kept kept = {frames[i].hdr, frames[i].len};
        memcpy(to, &kept, sizeof kept);
        to += sizeof kept;
        for (uint32_t k = 0; k < frames[i].iovcnt; k++) {
            memcpy(to, frames[i].iov[k].iov_base, frames[i].iov[k].iov_len);
            to += frames[i].iov[k].iov_len;
        }
        backlog->end += sizeof kept + frames[i].len;
    }
    return n - fit;
}

bool backlog_pass(struct backlog *backlog, struct port *port, unsigned queue, struct frame *frames, unsigned n)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < n; i++) {
        if (frames[i].len < FRAME_MIN)
            port->stats.too_short++;
        else if (frames[i].len > port->max_frame)
            port->stats.too_long++;
        else
            frames[kept++] = frames[i];
    }
    unsigned taken = kept ? wire_send(port, queue, frames, kept) : 0;
    if (taken == kept)
        return true;
    port->stats.no_room += backlog_add(backlog, frames + taken, kept - taken, SIZE_MAX);
    return false;
}

void backlog_return(struct backlog *backlog, struct port *port, unsigned queue)
{
    while (backlog->at < backlog->end) {
        struct kept kept;
        memcpy(&kept, backlog->bytes + backlog->at, sizeof kept);
        backlog->at += sizeof kept;
        event_frame_returned(port, queue, &kept.hdr, backlog->bytes + backlog->at, kept.len);
        backlog->at += kept.len;
    }
    free(backlog->bytes);
    *backlog = (struct backlog){0};
}

/* -- requests ----------------------------------------------------------------------------------------------------- */

int end_unblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK)))
        return errno;
    return 0;
}

int end_refuse(int error, char *text, size_t text_size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, text_size, format, arguments);
    va_end(arguments);
    return error;
}
