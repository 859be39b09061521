/* What the ports with descriptors of frames share: buffers of the thread, frames that wait for the wire, frames that
 * have to be completed. tap_port.c, packet_port.c, datagram_port.c and stream_port.c call it. */
#ifndef ENDS_H
#define ENDS_H

#include <sys/socket.h>

#include "wire.h"

#define END_IOV 1024u                /* pieces of one writev or sendmsg (IOV_MAX of Linux) */
#define END_SLOT (FRAME_MAX + 320u)  /* bytes of pool for one datagram; not a multiple of the caches' sets */
#define END_POOL (BATCH * END_SLOT)

/* Memory of the calling thread, END_POOL bytes: what is read lies there until wire_send has returned. NULL: there is
 * no memory. Only what is written to becomes resident. */
uint8_t *end_pool(void);

/* The frame as one piece, in memory of the calling thread that the next call overwrites; NULL: there is no memory. */
const uint8_t *end_gather(const struct frame *frame);

/* Send up to n frames that the far end takes as they are. Returns how many were taken, sent or dropped; fewer than n:
 * there is no room now, and wire_has_room follows. Counts what it sent, or why not. */
typedef unsigned end_send(struct port *port, unsigned queue, const struct frame *frames, unsigned n);

/* A port's `receive`: completes what the far end does not take unfinished, and drops what is too long. */
unsigned end_receive(struct port *port, unsigned queue, const struct frame *frames, unsigned n, end_send *send);

/* Send a datagram for each of the first frames, in one call: to `name`, or NULL where the socket is connected; with the
 * virtio_net_hdr in front if `header`. Returns how many were sent, 1 or more, or the errno of the first one, negative. */
int end_send_datagrams(int fd, const struct sockaddr_storage *name, socklen_t name_len, bool header,
                       const struct frame *frames, unsigned n);

/* Frames that were read and for which the wire had no room. Zeroed at first. */
struct backlog {
    uint8_t *bytes; /* for each frame its struct net_header, u32 length, then its bytes */
    size_t room, at, end;
};

static inline bool backlog_is_empty(const struct backlog *backlog)
{
    return backlog->at == backlog->end;
}

/* Keep copies of frames behind those that wait, while these are no more than `most` bytes in all. Returns how many were
 * not kept. */
unsigned backlog_add(struct backlog *backlog, const struct frame *frames, unsigned n, size_t most);

/* Pass on what waits. False: there is no room yet. *moved counts the frames. */
bool backlog_send(struct backlog *backlog, struct port *port, unsigned queue, unsigned *moved);

/* Pass on frames that were read, dropping those that are too short or too long; keep those without room. False: some are
 * kept. */
bool backlog_pass(struct backlog *backlog, struct port *port, unsigned queue, struct frame *frames, unsigned n);

/* The port is removed: return what waits to control, and free it. */
void backlog_return(struct backlog *backlog, struct port *port, unsigned queue);

/* Count one frame that the far end was given. */
static inline void end_sent(struct port *port, const struct frame *frame)
{
    port->stats.frames_out++;
    port->stats.bytes_out += frame->len;
}

/* The header, if something is pending in it; otherwise an empty one, since the kernel checks fields that mean nothing. */
static inline struct net_header end_pending(struct net_header hdr)
{
    if (!(hdr.flags & NET_NEEDS_CSUM) && hdr.gso_type == NET_GSO_NONE)
        return (struct net_header){0};
    return hdr;
}

/* Make the descriptor non-blocking. 0 or an errno. */
int end_unblock(int fd);

/* One line of text for a refused request; returns `error`. */
int end_refuse(int error, char *text, size_t text_size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
