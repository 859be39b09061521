/* Takes the kicks from a VM's vfio-user connection, which QEMU sends as messages. See doorbell.h.
 *
 * Control and this program read the connection by turns, which they give each other by eventfds: never both. In its turn
 * the worker looks at what has come (MSG_PEEK), and takes nothing but whole kicks of rings that run here. At anything
 * else, a part of a message and the end of the connection as well, it gives the turn to control. So the connection always
 * stands between two messages, and control can go on with it at any time, also when this program was killed. */
#include "doorbell.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ends.h"

#define LOOKS 16u          /* at the connection in a row; then the other sources have their turn */
#define LOOK_BYTES 1024u
#define REGION_WRITE 10u   /* vfio-user's command */
#define POSTED 0x10u       /* flags: a command, and no reply is wanted */
#define DATA_MAX 8u

/* A header, and the payload of a REGION_WRITE before its data (libvfio-user's vfio-user.rst). */
struct region_write {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint64_t offset;
    uint32_t region, count;
};
_Static_assert(sizeof(struct region_write) == 32, "REGION_WRITE");

struct doorbell {
    struct watch sock_watch, turn_watch;
    int sock, given, taken; /* the connection; eventfds: the turn is control's, the turn is ours */
    uint64_t first, end;    /* offsets of the notification area */
    uint32_t region, stride;
};

/* The size of the message at `at` if it is a kick of a running ring, whose index is *ring; 0: it is not, or not whole. */
static uint32_t kick_at(const struct vhost_port *vhost, const uint8_t *at, size_t have, uint32_t *ring)
{
    const struct doorbell *doorbell = vhost->doorbell;
    struct region_write write;
    if (have < sizeof write)
        return 0;
    memcpy(&write, at, sizeof write);
    uint32_t count = le32toh(write.count), size = (uint32_t)sizeof write + count;
    uint64_t offset = le64toh(write.offset);
    if (le16toh(write.command) != REGION_WRITE || le32toh(write.flags) != POSTED || count > DATA_MAX ||
        le32toh(write.size) != size || have < size || le32toh(write.region) != doorbell->region ||
        offset < doorbell->first || offset >= doorbell->end || count > doorbell->end - offset)
        return 0;
    uint64_t index = (offset - doorbell->first) / doorbell->stride;
    if (index >= 2 * (uint64_t)vhost->port.queues || vhost->rings[index].ring.state != RING_STARTED)
        return 0;
    *ring = (uint32_t)index;
    return size;
}

static void kick(struct vhost_port *vhost, uint32_t index)
{
    if (index & 1)
        port_run(&vhost->port, index / 2);
    else
        wire_has_room(&vhost->port, index / 2);
}

static void give_turn(struct vhost_port *vhost)
{
    struct doorbell *doorbell = vhost->doorbell;
    port_watch(&vhost->port, &doorbell->sock_watch, doorbell->sock, 0, 0);
    eventfd_write(doorbell->given, 1);
}

/* The connection is readable. */
static void look(struct watch *watch)
{
    struct vhost_port *vhost = vhost_port(watch->port);
    struct doorbell *doorbell = vhost->doorbell;
    for (unsigned i = 0; i < LOOKS; i++) {
        uint8_t bytes[LOOK_BYTES];
        ssize_t got = recv(doorbell->sock, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        size_t have = got > 0 ? (size_t)got : 0, at = 0;
        uint32_t size, ring;
        while ((size = kick_at(vhost, bytes + at, have - at, &ring))) {
            kick(vhost, ring);
            at += size;
        }
        bool failed = at && recv(doorbell->sock, bytes, at, MSG_DONTWAIT) != (ssize_t)at; /* control finds out why */
        bool cut_here = have == sizeof bytes && at; /* the next message may be a kick that was not seen whole */
        if (failed || !have || (at < have && !cut_here)) {
            give_turn(vhost);
            return;
        }
        if (have < sizeof bytes)
            return; /* that was all, and what comes now is an edge */
    }
    port_watch(&vhost->port, watch, watch->fd, 0, EPOLLIN); /* asks anew */
}

/* Control has written the eventfd `taken`: it gives us the turn, or wants it back (DOORBELL_BACK), or both in a row. */
static void take_turn(struct watch *watch)
{
    struct vhost_port *vhost = vhost_port(watch->port);
    struct doorbell *doorbell = vhost->doorbell;
    uint64_t said;
    if (read(doorbell->taken, &said, sizeof said) < 0)
        return;
    bool have = doorbell->sock_watch.events, failed = false;
    if (!have && said % DOORBELL_BACK) {
        have = true;
        failed = port_watch(&vhost->port, &doorbell->sock_watch, doorbell->sock, 0, EPOLLIN) != 0;
    }
    if (have && (failed || said >= DOORBELL_BACK))
        give_turn(vhost);
}

int doorbell_add(struct vhost_port *vhost, const struct message_doorbell *body, const int *fds, char *text,
                 size_t text_size)
{
    if (vhost->doorbell)
        return end_refuse(EEXIST, text, text_size, "port: %u has a doorbell", body->port);
    if (!body->stride || body->bytes > UINT64_MAX - body->first)
        return end_refuse(EINVAL, text, text_size, "stride, bytes: no area");
    struct doorbell *doorbell = calloc(1, sizeof *doorbell);
    if (!doorbell)
        return end_refuse(ENOMEM, text, text_size, "doorbell: %s", strerror(ENOMEM));
    *doorbell = (struct doorbell){
        .sock = fds[0],
        .given = fds[1],
        .taken = fds[2],
        .first = body->first,
        .end = body->first + body->bytes,
        .region = body->region,
        .stride = body->stride,
        .sock_watch.act = look,
        .turn_watch.act = take_turn,
    };
    if (port_watch(&vhost->port, &doorbell->turn_watch, doorbell->taken, 0, EPOLLIN)) {
        int error = errno;
        free(doorbell);
        return end_refuse(error, text, text_size, "fds: %s", strerror(error));
    }
    vhost->doorbell = doorbell;
    return 0;
}

void doorbell_remove(struct vhost_port *vhost)
{
    struct doorbell *doorbell = vhost->doorbell;
    if (!doorbell)
        return;
    vhost->doorbell = NULL;
    close(doorbell->sock);
    close(doorbell->given);
    close(doorbell->taken);
    free(doorbell);
}
