/* Streams with QEMU's framing: 4 bytes of length, big-endian, then the frame (as backend/framing.py and
 * backend/connection.py of vnic).
 *
 * All of a stream's state is in memory that control made (struct stream_memory), and is right there at any instruction:
 * this program may be killed, and another one goes on in the middle of a frame. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ends.h"

#define PREFIX 4u
#define COPY_MAX 256u /* bytes of a frame that is copied rather than sent from where it is */
_Static_assert(BATCH <= STREAM_FRAMES, "frames of one call");

struct stream_port {
    struct port port;
    int fd;
    struct watch watch;
    struct stream_memory *memory;
    uint32_t in_at, in_end;   /* of memory->in: read, and not passed on */
    uint32_t in_first;        /* before in_at while frames are being passed on: where they begin */
    uint32_t out_at, out_end; /* of memory->out: the rest of a frame of which a part was sent */
};

/* A test's build dies at the n-th of these points. */
#ifdef TEST_KILL
#include <signal.h>
static void may_die(void)
{
    static unsigned long points;
    const char *at = getenv("VNIC_WIRE_KILL_AT");
    if (at && ++points == strtoul(at, NULL, 10))
        raise(SIGKILL);
}
#else
static inline void may_die(void)
{
}
#endif

/* -- the state that outlives this program ------------------------------------------------------------------------- */

/* The slot that does not hold. */
static struct stream_slot *other_slot(struct stream_slot slots[2], uint32_t turn)
{
    return &slots[!turn];
}

/* From here on the other slot holds. What is written before must not be moved behind it by the compiler, nor what comes
 * later before it; the processor completes its stores in order as far as one that looks after the death can tell. */
static void move_on(uint32_t *turn)
{
    may_die();
    atomic_signal_fence(memory_order_seq_cst);
    __atomic_store_n(turn, !*turn, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
    may_die();
}

/* What was read and not passed on is in[at:end]. */
static void set_in(struct stream_port *stream, uint32_t at, uint32_t end)
{
    struct stream_memory *memory = stream->memory;
    struct stream_slot *slot = other_slot(memory->in_slots, memory->in_turn);
    slot->at = at;
    may_die();
    slot->end = end;
    slot->call.done = 0;
    move_on(&memory->in_turn);
    stream->in_at = stream->in_first = at;
    stream->in_end = end;
}

/* What was not sent is out[at:end]. */
static void set_out(struct stream_port *stream, uint32_t at, uint32_t end)
{
    struct stream_memory *memory = stream->memory;
    struct stream_slot *slot = other_slot(memory->out_slots, memory->out_turn);
    slot->at = at;
    may_die();
    slot->end = end;
    slot->frames = 0;
    slot->call.done = 0;
    move_on(&memory->out_turn);
    stream->out_at = at;
    stream->out_end = end;
}

/* One call under the slot that holds: the kernel writes its result there. The C library's functions would not do, some
 * make calls of their own of it. Returns the bytes, or -1 with errno. */
static ssize_t call_under(struct stream_slot *slot, long number, int fd, struct iovec *iov, unsigned count, int flags)
{
    slot->call.iov = (uintptr_t)iov;
    slot->call.iov_count = count;
    long done;
    do {
        may_die();
        done = number == SYS_recvmmsg ? syscall(number, fd, &slot->call, 1, flags, NULL)
                                      : syscall(number, fd, &slot->call, 1, flags);
        may_die();
    } while (done < 0 && errno == EINTR);
    return done < 0 ? -1 : (ssize_t)__atomic_load_n(&slot->call.done, __ATOMIC_RELAXED);
}

static ssize_t read_under(struct stream_port *stream, struct iovec *iov)
{
    struct stream_memory *memory = stream->memory;
    return call_under(&memory->in_slots[memory->in_turn], SYS_recvmmsg, stream->fd, iov, 1, MSG_DONTWAIT);
}

static ssize_t send_under(struct stream_port *stream, struct iovec *iov, unsigned count)
{
    struct stream_memory *memory = stream->memory;
    return call_under(&memory->out_slots[memory->out_turn], SYS_sendmmsg, stream->fd, iov, count,
                      MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Map control's memory. NULL, with errno, if it is not what it has to be: it must not shrink under us. */
static struct stream_memory *map_memory(int fd)
{
    struct stat info;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstat(fd, &info))
        return NULL;
    errno = EINVAL;
    if (!(seals & F_SEAL_SHRINK) || info.st_size < (off_t)STREAM_MEMORY)
        return NULL;
    void *memory = mmap(NULL, STREAM_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Take the state that control wrote. False: it breaks the bounds. */
static bool take_state(struct stream_port *stream)
{
    struct stream_memory *memory = stream->memory;
    const struct stream_slot *in = &memory->in_slots[0], *out = &memory->out_slots[0];
    if (memory->in_turn || memory->out_turn || in->at || in->end > STREAM_BYTES || out->at || out->end > STREAM_BYTES ||
        out->frames || in->call.done || out->call.done)
        return false;
    stream->in_end = in->end;
    stream->out_end = out->end;
    return true;
}

static int stream_add(struct port *port, const struct port_request *request, char *text, size_t text_size)
{
    struct stream_port *stream = (struct stream_port *)port;
    const struct message_port_add *body = request->body;
    if (request->fd_count != 2 || port->queues != 1)
        return end_refuse(EINVAL, text, text_size, "fds: %u for %u queues of a stream, which takes its memory, too",
                          request->fd_count, port->queues);
    if (port->flags || body->dest_len || body->own_len)
        return end_refuse(EINVAL, text, text_size, "flags, dest_len, own_len: a stream has none");
    stream->fd = request->fds[0];
    stream->memory = map_memory(request->fds[1]);
    if (!stream->memory)
        return end_refuse(errno, text, text_size, "fds: no memory for a stream: %s", strerror(errno));
    int error = 0;
    if (!take_state(stream)) {
        error = end_refuse(EINVAL, text, text_size, "fds: the memory of the stream holds no first state");
    } else if (port_watch(port, &stream->watch, stream->fd, 0,
                          EPOLLIN | EPOLLRDHUP | (stream->out_end ? (uint32_t)EPOLLOUT : 0))) {
        error = errno;
        end_refuse(error, text, text_size, "fds: %s", strerror(error));
    }
    if (error)
        munmap(stream->memory, STREAM_MEMORY);
    else
        close(request->fds[1]);
    return error;
}

static void stream_remove(struct port *port)
{
    struct stream_port *stream = (struct stream_port *)port;
    munmap(stream->memory, STREAM_MEMORY);
    close(stream->fd);
}

/* -- to the far end ----------------------------------------------------------------------------------------------- */

static void await_writable(struct stream_port *stream)
{
    port_watch(&stream->port, &stream->watch, stream->fd, 0, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
}

/* Keep what was not sent of a frame of which `done` bytes, with the prefix, were. */
static void keep_rest(struct stream_port *stream, const struct frame *frame, size_t done)
{
    uint32_t prefix = htonl(frame->len);
    size_t total = PREFIX + frame->len;
    uint8_t *to = stream->memory->out;
    /* The frame may be guest memory whose file was truncated, and the copy never return: then the rest is zeros, and the
     * next frame begins where the peer expects it. */
    memset(to, 0, total - done);
    if (done < PREFIX) {
        memcpy(to, (uint8_t *)&prefix + done, PREFIX - done);
        to += PREFIX - done;
        done = PREFIX;
    }
    set_out(stream, 0, (uint32_t)(to - stream->memory->out + (ptrdiff_t)(total - done)));
    await_writable(stream);
    size_t skipped = done - PREFIX;
    for (uint32_t i = 0; i < frame->iovcnt; i++) {
        size_t len = frame->iov[i].iov_len;
        if (skipped >= len) {
            skipped -= len;
            continue;
        }
        memcpy(to, (uint8_t *)frame->iov[i].iov_base + skipped, len - skipped);
        may_die();
        to += len - skipped;
        skipped = 0;
    }
}

/* Send as many of the frames as one call takes. Returns how many were taken, sent or dropped; *full: no more can be. */
static unsigned send_some(struct stream_port *stream, const struct frame *frames, unsigned n, bool *full)
{
    struct port *port = &stream->port;
    struct iovec iov[END_IOV];
    uint8_t copies[BATCH * (PREFIX + COPY_MAX)], *copy = copies;
    unsigned count = 0, offered = 0;
    size_t bytes = 0;
    struct stream_slot *slot = other_slot(stream->memory->out_slots, stream->memory->out_turn);
    while (offered < n && offered < BATCH) {
        const struct frame *frame = &frames[offered];
        if (frame->prefixed) { /* from another stream: as it came, and with the one before it in one piece */
            struct iovec piece = {(uint8_t *)frame->iov->iov_base - PREFIX, PREFIX + frame->len};
            if (count && (uint8_t *)iov[count - 1].iov_base + iov[count - 1].iov_len == piece.iov_base)
                iov[count - 1].iov_len += piece.iov_len;
            else if (count < END_IOV)
                iov[count++] = piece;
            else
                break;
            bytes += piece.iov_len;
            slot->lengths[offered++] = frame->len;
            continue;
        }
        bool long_list = frame->iovcnt > END_IOV - 1;
        if (count + 1 + (long_list ? 1 : frame->iovcnt) > END_IOV || (long_list && offered))
            break;
        /* The prefix, and a short frame with it, where the last copy ends: then the kernel has fewer pieces to take. */
        bool is_short = frame->len <= COPY_MAX;
        uint32_t prefix = htonl(frame->len);
        uint8_t *begin = copy;
        memcpy(copy, &prefix, PREFIX);
        copy += PREFIX;
        for (uint32_t k = 0; is_short && k < frame->iovcnt; k++) {
            memcpy(copy, frame->iov[k].iov_base, frame->iov[k].iov_len);
            copy += frame->iov[k].iov_len;
        }
        if (count && (uint8_t *)iov[count - 1].iov_base + iov[count - 1].iov_len == begin)
            iov[count - 1].iov_len += (size_t)(copy - begin);
        else
            iov[count++] = (struct iovec){begin, (size_t)(copy - begin)};
        if (long_list && !is_short)
            iov[count++] = (struct iovec){(void *)(uintptr_t)end_gather(frame), frame->len};
        for (uint32_t k = 0; !is_short && !long_list && k < frame->iovcnt; k++)
            iov[count++] = frame->iov[k];
        bytes += PREFIX + frame->len;
        slot->lengths[offered++] = frame->len;
        if (long_list)
            break;
    }
    slot->frames = offered;
    slot->call.done = 0;
    move_on(&stream->memory->out_turn);
    ssize_t done = send_under(stream, iov, count);
    if (done < 0 && errno == EFAULT) {
        /* Guest memory whose file was truncated. Only the frame that lies in it may be lost. */
        if (offered > 1)
            return send_some(stream, frames, 1, full);
        port->stats.refused++;
        return 1;
    }
    if (done < 0 && errno == EAGAIN)
        done = 0;
    if (done < 0) {
        event_port_lost(port, 0, errno);
        port->stats.no_peer += n;
        return n;
    }
    unsigned taken = 0;
    size_t left = (size_t)done;
    while (taken < offered && left >= PREFIX + frames[taken].len) {
        left -= PREFIX + frames[taken].len;
        end_sent(port, &frames[taken++]);
    }
    *full = (size_t)done < bytes;
    if (left) {
        end_sent(port, &frames[taken]);
        keep_rest(stream, &frames[taken++], left);
    }
    return taken;
}

static unsigned stream_send(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    (void)queue;
    struct stream_port *stream = (struct stream_port *)port;
    unsigned taken = 0;
    bool full = stream->out_at < stream->out_end;
    while (taken < n && !full && !port->lost)
        taken += send_some(stream, frames + taken, n - taken, &full);
    if (full)
        await_writable(stream);
    return port->lost ? n : taken;
}

static unsigned stream_receive(struct port *port, unsigned queue, const struct frame *frames, unsigned n)
{
    return end_receive(port, queue, frames, n, stream_send);
}

static void stream_writable(struct port *port, unsigned queue)
{
    struct stream_port *stream = (struct stream_port *)port;
    while (stream->out_at < stream->out_end) {
        set_out(stream, stream->out_at, stream->out_end);
        struct iovec rest = {stream->memory->out + stream->out_at, stream->out_end - stream->out_at};
        ssize_t done = send_under(stream, &rest, 1);
        if (done < 0) {
            if (errno != EAGAIN)
                event_port_lost(port, 0, errno);
            return;
        }
        stream->out_at += (uint32_t)done;
    }
    port_watch(port, &stream->watch, stream->fd, 0, EPOLLIN | EPOLLRDHUP);
    wire_has_room(port, queue);
}

/* -- from the far end --------------------------------------------------------------------------------------------- */

/* What became of the bytes that were read. */
enum passed { ALL_PASSED, NO_ROOM, INVALID };

/* Pass on the whole frames that were read. */
static enum passed pass_frames(struct stream_port *stream, unsigned *moved)
{
    struct port *port = &stream->port;
    const uint8_t *data = stream->memory->in;
    const uint32_t end = stream->in_end;
    for (;;) {
        struct frame frames[BATCH];
        struct iovec iov[BATCH];
        uint32_t first = stream->in_at, at = first, size = 0;
        unsigned n = 0;
        bool whole = false;
        while (n < BATCH && end - at >= PREFIX) {
            memcpy(&size, data + at, PREFIX);
            size = ntohl(size);
            whole = size <= end - at - PREFIX;
            if (!whole || size < FRAME_MIN || size > port->max_frame)
                break;
            iov[n] = (struct iovec){(void *)(uintptr_t)(data + at + PREFIX), size};
            frames[n] = (struct frame){.iov = &iov[n], .iovcnt = 1, .len = size, .prefixed = true};
            n++;
            at += PREFIX + size;
            whole = false;
        }
        if (n) {
            set_in(stream, at, end); /* before they are passed on: one that is killed now loses them, but sends none twice */
            stream->in_first = first;
            unsigned taken = wire_send(port, 0, frames, n);
            may_die();
            stream->in_first = at;
            *moved += taken;
            if (taken < n) {
                for (unsigned i = 0; i < taken; i++)
                    first += PREFIX + frames[i].len;
                set_in(stream, first, end);
                return NO_ROOM;
            }
        }
        if (n == BATCH)
            continue;
        if (end - at < PREFIX)
            return ALL_PASSED;
        if (size > FRAME_MAX)
            return INVALID;
        if (!whole)
            return ALL_PASSED;
        /* Empty frames count, too, so that a flood of them ends the turn. */
        port->stats.too_short += size && size < FRAME_MIN;
        port->stats.too_long += size > port->max_frame;
        set_in(stream, at + PREFIX + size, end);
        ++*moved;
    }
}

/* What is left is a part of a frame: move it to the front where it fits before itself, so that there is always room for
 * the longest frame behind its beginning. */
static void make_room(struct stream_port *stream)
{
    uint32_t at = stream->in_at, len = stream->in_end - at;
    if (at && at >= len) {
        memcpy(stream->memory->in, stream->memory->in + at, len);
        may_die();
        at = 0;
    }
    set_in(stream, at, at + len);
}

/* Whether the far end has closed. A stream that waits for room does not read, so no read can report it; the link must not
 * stay up because the guest does not take the remaining frames. */
static bool is_hung_up(const struct stream_port *stream)
{
    struct pollfd poll_for = {.fd = stream->fd, .events = POLLRDHUP};
    return poll(&poll_for, 1, 0) > 0;
}

static unsigned stream_poll(struct port *port, unsigned queue)
{
    struct stream_port *stream = (struct stream_port *)port;
    unsigned moved = 0;
    enum passed passed = pass_frames(stream, &moved);
    int error = 0;
    bool ended = false, empty = false;
    while (passed == ALL_PASSED && !moved && !empty) {
        make_room(stream);
        struct iovec room = {stream->memory->in + stream->in_end, STREAM_BYTES - (stream->in_end - stream->in_at)};
        ssize_t got = read_under(stream, &room);
        if (got > 0) {
            stream->in_end += (uint32_t)got;
            passed = pass_frames(stream, &moved);
        } else {
            empty = true;
            ended = !got || errno != EAGAIN;
            error = got ? errno : 0;
        }
    }
    if (passed == NO_ROOM && is_hung_up(stream))
        ended = true;
    if (passed == INVALID) {
        ended = true;
        error = EBADMSG;
    }
    if (ended)
        event_port_lost(port, queue, error);
    return moved;
}

/* The frames that were being passed on are kept, as if the turn had not happened. */
static void stream_interrupted(struct port *port)
{
    struct stream_port *stream = (struct stream_port *)port;
    set_in(stream, stream->in_first, stream->in_end);
}

const struct port_ops stream_port_ops = {
    .size = sizeof(struct stream_port),
    .add = stream_add,
    .remove = stream_remove,
    .receive = stream_receive,
    .poll = stream_poll,
    .interrupted = stream_interrupted,
    .writable = stream_writable,
};
