/* Ports, and the wires that join them. Every kind of port implements `struct port_ops`; the workers and the control
 * channel call it, and the ports call wire_send, port_watch and the events.
 *
 * Threads: a port belongs to one worker, which holds its lock while it calls the port. The main thread takes that lock
 * before it changes a port or a wire, so that the functions of one port never run at the same time. */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "protocol.h"

#define BATCH 64u          /* frames that a source sends in one turn, at most */
#define FRAME_IOV 2048u    /* pieces of one frame, at most */
#define FRAME_MIN 14u      /* bytes: an Ethernet header */
#define FRAME_MAX 69632u   /* 4096 + 65536, QEMU's NET_BUFSIZE */

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* struct virtio_net_hdr (virtio 1.2 §5.1.6), little-endian as the rings have it. */
struct net_header {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
};
_Static_assert(sizeof(struct net_header) == 10, "virtio_net_hdr");
#define NET_NEEDS_CSUM 1u
#define NET_GSO_NONE 0u
#define NET_GSO_TCPV4 1u
#define NET_GSO_UDP 3u
#define NET_GSO_TCPV6 4u
#define NET_GSO_UDP_L4 5u
#define NET_GSO_ECN 0x80u

/* One Ethernet frame on its way; valid only during the call it is passed to. */
struct frame {
    const struct iovec *iov; /* may point into guest memory, which can change at any time: copy what is checked */
    uint32_t iovcnt;         /* 1 to FRAME_IOV */
    uint32_t len;            /* bytes in iov: FRAME_MIN to FRAME_MAX */
    struct net_header hdr;   /* a private copy; flags and gso_type 0: nothing is pending, the rest means nothing */
    bool prefixed;           /* one piece, and before it lie the 4 bytes of its length that streams have (STREAM) */
};

static inline bool frame_is_complete(const struct frame *frame)
{
    return !(frame->hdr.flags | frame->hdr.gso_type);
}

struct port;
struct source;
struct wire;
struct worker;
struct dump;
struct line;

/* What control asked for. The descriptors are the port's once `add` has returned 0. */
struct port_request {
    const struct message_port_add *body;
    const uint8_t *dest, *own; /* lengths in the body */
    const int *fds;
    unsigned fd_count;
};

struct port_ops {
    size_t size; /* of the port's own struct, which begins with `struct port` */

    /* Main thread. Check the request and set the port up, which is zeroed but for what every port has. 0, or an errno
     * with one line of text; then nothing was kept and the descriptors are still the caller's. */
    int (*add)(struct port *, const struct port_request *, char *text, size_t text_size);

    /* Main thread, locked. Let go of everything: close descriptors, free memory (not the port itself), and return the
     * frames that wait (event_frame_returned). The watches are gone already. */
    void (*remove)(struct port *);

    /* Main thread, locked, before `remove`: what control needs to go on with the port, as the reply's data. Returns how many
     * bytes. NULL: nothing. */
    size_t (*state)(struct port *, uint8_t *data);

    /* Deliver `n` frames at `queue`. Returns how many were taken; fewer than n: there is no room for the next one now,
     * and wire_has_room will be called, or the port is asked with `await_room`. A frame that is dropped counts as
     * taken, under its cause in `stats`; frames delivered are counted here, too (frames_out, bytes_out). The frames may
     * be used until it returns, so one sendmmsg can take them all. */
    unsigned (*receive)(struct port *, unsigned queue, const struct frame *frames, unsigned n);

    /* Bits 1 << gso_type: such frames are delivered as they are. NULL: all with PORT_OFFLOAD, else none. */
    uint32_t (*takes)(struct port *);

    /* Read up to BATCH frames, and pass them on with wire_send (one call for all of them is best). Returns how many
     * frames moved (drops included). 0: nothing is there, or the wire has no room; with a descriptor, only after EAGAIN
     * or no room, because the watch is edge-triggered. Runs again when its watch or wire_has_room says so. */
    unsigned (*poll)(struct port *, unsigned queue);

    /* The worker is about to sleep: ask for a notification of frames at `queue`. True: some are there already.
     * NULL: the watch is enough. */
    bool (*await_frames)(struct port *, unsigned queue);

    /* A source waits for room at `queue`, and the worker is about to sleep: ask for a notification. True: there is room
     * already. NULL: `receive` has asked for it (a watch with EPOLLOUT). */
    bool (*await_room)(struct port *, unsigned queue);

    /* What `port_tell_later` asked for. NULL: this port never asks. */
    void (*tell)(struct port *, unsigned queue);

    /* A watch has become writable (EPOLLOUT). Calls wire_has_room. NULL: no watch of this port has EPOLLOUT. */
    void (*writable)(struct port *, unsigned queue);

    /* A fault in guest memory, of another port of the wire as well, has ended `poll` half-way: keep what it has read and
     * what the next turn cannot do without. NULL: there is nothing of that kind. */
    void (*interrupted)(struct port *);

    /* SIGBUS at this address. True: it is in this port's guest memory, and its rings are broken now. NULL: the port has
     * no guest memory. */
    bool (*faulted)(struct port *, const void *address);
};

extern const struct port_ops vhost_port_ops, tap_port_ops, stream_port_ops, datagram_port_ops, packet_port_ops,
    tunnel_port_ops;

/* One descriptor in the worker's epoll, edge-triggered. Part of the port's own struct, zeroed at first. */
struct watch {
    struct port *port;
    struct watch *next;
    void (*act)(struct watch *); /* what to do instead of all below; NULL: that */
    int fd;
    uint32_t queue;
    uint32_t events; /* EPOLLIN, EPOLLOUT; 0: not in the epoll */
    uint32_t slot;   /* the worker's number for it */
    bool room;       /* EPOLLIN means that there is room at `queue` (a ring's kick), not that there are frames */
    uint8_t drain;   /* enum wake_kind: the worker reads what made it readable (a kick that is a socket or pipe); 0: not */
};

/* What every port has. */
struct port {
    const struct port_ops *ops;
    uint32_t id;
    uint32_t kind;
    uint32_t flags;
    uint32_t max_frame;
    uint32_t queues;
    uint32_t active;        /* the first `active` queues take frames; 0: none does (drop, no_peer) */
    bool lost;              /* reported by event_port_lost: not polled any more */
    bool started;           /* it was in a wire once; before that it is not polled */
    struct worker *worker;
    struct wire *wire;      /* NULL: frames that come from it are dropped */
    struct source *sources; /* one for each queue */
    struct watch *watches;
    struct dump *dumps;     /* dump.c's list */
    struct line *out_line;  /* what is delivered to it goes through here (line.h); NULL: it is not impaired */
    struct line *in_line;   /* what comes from it */
    uint32_t *parts;        /* during `receive`: see parts_before; NULL: the rest of a frame cannot wait */
    unsigned short_by;      /* frames of the present batch that it had no room for (wire.c) */
    struct stats stats;
};

/* For `receive` of a port that completes frames: how many of the parts of frames[0] it took when it last ran out of
 * room. */
static inline unsigned parts_before(struct port *port)
{
    unsigned before = port->parts ? *port->parts : 0;
    if (before)
        *port->parts = 0;
    return before;
}

/* There was no room after `done` parts of a frame: whether it may wait for room. If not, the rest of it is dropped. */
static inline bool parts_wait(struct port *port, unsigned done)
{
    if (done && !port->parts) {
        port->stats.no_room++;
        return false;
    }
    if (done)
        *port->parts = done;
    return true;
}

/* CLOCK_MONOTONIC. */
uint64_t now_ns(void);

/* Pass n frames, which came in at `queue` of `from`, to the other ports of its wire. Counts frames_in and bytes_in of
 * those taken. Returns how many were taken; fewer than n: keep the rest, return from `poll`, which will run again when
 * there is room. Without a wire all are dropped (no_peer). */
unsigned wire_send(struct port *from, unsigned queue, const struct frame *frames, unsigned n);

/* Bits 1 << gso_type: whether all other ports of its wire take such frames as they are. */
uint32_t wire_takes(const struct port *from);

/* There is room at `queue` of this port: the sources that wait for it run again. */
void wire_has_room(struct port *port, unsigned queue);

/* Add, change (events) or end (events 0) a watch. A change of the events asks the kernel anew, so readiness is never
 * missed. 0, or -1 with errno (EPERM: no such descriptor can be watched). */
int port_watch(struct port *port, struct watch *watch, int fd, unsigned queue, uint32_t events);

/* Run `poll` of this queue soon, as if its watch had become readable (bytes of a STREAM that came with PORT_ADD). */
void port_run(struct port *port, unsigned queue);

/* The worker, within `poll`: have `tell` called for this queue when there is nothing else to do, which is after TELL_NS
 * at most, and before anybody else gets the worker's lock. */
void port_tell_later(struct port *port, unsigned queue);

/* Events to control; from any thread. They never block: control gets them when it reads. */
void event_port_lost(struct port *port, unsigned queue, int error); /* once for a port; sets `lost` */
void event_ring_broken(struct port *port, unsigned ring, const char *text);
void event_log(unsigned level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void event_dump_failed(uint32_t dump, int error);
void event_frame_returned(struct port *port, unsigned queue, const struct net_header *hdr, const uint8_t *frame,
                          uint32_t len);
void event_ccm_state(struct port *port, const struct tunnel_state *state, uint32_t silent_us);
void event_tunnel_trouble(struct port *port, unsigned counter);
/* False: control does not read, and too many wait. The frame is lost. */
bool event_frame_received(struct port *port, const uint8_t *frame, uint32_t len);
#define LOG_INFO 20u
#define LOG_WARNING 30u
#define LOG_ERROR 40u

/* dump.c. Main thread, locked. 0 or an errno; the descriptor is dump's when 0. `dump_remove`: 0 or ENOENT. */
int dump_add(struct port *port, uint32_t dump, uint32_t snaplen, uint32_t direction, int fd);
int dump_remove(struct port *port, uint32_t dump);
void dump_remove_all(struct port *port);
/* Called with what wire_send took from a port (DUMP_TX) and what a port was given (DUMP_RX). */
void dump_frames(struct port *port, uint32_t direction, const struct frame *frames, unsigned n);

/* offload.c. Complete a frame whose header is not empty: `emit` gets each resulting frame (hdr zeroed), in order.
 * `emit` returns false where there is no room; then the result is OFFLOAD_NO_ROOM and *done tells how many of the
 * resulting frames were taken. The caller starts with *done 0, and passes the number again with the same frame, which
 * goes on behind those. (A guest may have changed the frame meanwhile: what results is checked anew.) Uses memory of
 * the calling thread, no malloc for each frame; what `emit` gets is valid during the call. */
#define OFFLOAD_SEGMENTS (65536u / 48u) /* of one frame, at most: the smallest MSS of Linux is 48 */
enum offload_result { OFFLOAD_DONE, OFFLOAD_NO_ROOM, OFFLOAD_BAD };
enum offload_result offload_complete(const struct frame *frame, unsigned *done,
                                     bool (*emit)(void *context, const struct frame *part), void *context);

#endif
