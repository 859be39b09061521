/* Wires: frames from one port to the others, and who waits for whom. See wire.h and table.h. */
#include "wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "line.h"
#include "memory.h"
#include "table.h"
#include "worker.h"

static struct port **ports;
static struct wire **wires;
static uint32_t port_room, wire_room, port_end;

/* -- tables --------------------------------------------------------------------------------------------------- */

static bool grow(void ***table, uint32_t *room, uint32_t id)
{
    if (id < *room)
        return true;
    uint32_t count = *room ? *room : 64;
    while (count <= id)
        count *= 2;
    void **larger = realloc(*table, count * sizeof *larger);
    if (!larger)
        return false;
    memset(larger + *room, 0, (count - *room) * sizeof *larger);
    *table = larger;
    *room = count;
    return true;
}

struct port *port_find(uint32_t id)
{
    return id < port_end ? ports[id] : NULL;
}

struct port *port_next(uint32_t id)
{
    for (; id < port_end; id++)
        if (ports[id])
            return ports[id];
    return NULL;
}

struct port *port_make(uint32_t id, const struct port_ops *ops, uint32_t queues)
{
    if (!grow((void ***)&ports, &port_room, id)) {
        errno = ENOMEM;
        return NULL;
    }
    struct port *port = calloc(1, ops->size);
    struct source *sources = calloc(queues, sizeof *sources);
    if (!port || !sources) {
        free(port);
        free(sources);
        errno = ENOMEM;
        return NULL;
    }
    port->ops = ops;
    port->id = id;
    port->queues = queues;
    port->worker = &workers[id % worker_count];
    port->sources = sources;
    for (uint32_t i = 0; i < queues; i++)
        sources[i] = (struct source){.port = port, .queue = i};
    return port;
}

void port_enter(struct port *port)
{
    ports[port->id] = port;
    if (port->id >= port_end)
        port_end = port->id + 1;
}

void port_free(struct port *port)
{
    if (ports[port->id] == port)
        ports[port->id] = NULL;
    while (port_end && !ports[port_end - 1])
        port_end--;
    free(port->sources);
    free(port);
}

/* -- frames --------------------------------------------------------------------------------------------------- */

static unsigned deliver_now(struct port *to, unsigned queue, const struct frame *frames, unsigned n)
{
    uint32_t active = to->active;
    if (unlikely(!active || to->lost)) {
        to->stats.no_peer += n;
        return n;
    }
    if (unlikely(queue >= active))
        queue %= active;
    unsigned taken = to->ops->receive(to, queue, frames, n);
    if (unlikely(to->dumps != NULL) && taken)
        dump_frames(to, DUMP_RX, frames, taken);
    return taken;
}

unsigned wire_deliver(struct port *to, unsigned queue, const struct frame *frames, unsigned n)
{
    if (unlikely(to->out_line != NULL))
        return line_take(to->out_line, queue, frames, n);
    return deliver_now(to, queue, frames, n);
}

/* To all others: a frame waits only while none of them has room (net/hub.c of QEMU). */
static unsigned send_to_all(struct wire *wire, struct port *from, unsigned queue, const struct frame *frames,
                            unsigned n)
{
    unsigned most = 0;
    for (uint32_t i = 0; i < wire->n; i++) {
        struct port *to = wire->ports[i];
        if (to == from)
            continue;
        to->parts = NULL;
        unsigned taken = wire_deliver(to, queue, frames, n);
        if (taken > most)
            most = taken;
        to->short_by = n - taken;
    }
    for (uint32_t i = 0; i < wire->n; i++) {
        struct port *to = wire->ports[i];
        if (to != from && to->short_by > n - most)
            to->stats.no_room += to->short_by - (n - most);
    }
    return most;
}

/* To the other ports of the wire as it is now. `parts` is where a frame's parts that were taken are kept. */
static unsigned route(struct port *from, unsigned queue, uint32_t *parts, const struct frame *frames, unsigned n)
{
    struct wire *wire = from->wire;
    if (likely(wire && wire->n == 2)) {
        struct port *to = wire->ports[wire->ports[0] == from];
        to->parts = parts;
        return wire_deliver(to, queue, frames, n);
    }
    if (wire && wire->n > 2)
        return send_to_all(wire, from, queue, frames, n);
    if (wire && wire->held)
        return 0;
    from->stats.no_peer += n;
    return n;
}

unsigned wire_send(struct port *from, unsigned queue, const struct frame *frames, unsigned n)
{
    unsigned taken;
    if (unlikely(from->in_line != NULL))
        taken = line_take(from->in_line, queue, frames, n);
    else
        taken = route(from, queue, &from->sources[queue].parts, frames, n);
    if (unlikely(taken < n))
        from->sources[queue].blocked = true;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < taken; i++)
        bytes += frames[i].len;
    from->stats.frames_in += taken;
    from->stats.bytes_in += bytes;
    if (unlikely(from->dumps != NULL) && taken)
        dump_frames(from, DUMP_TX, frames, taken);
    return taken;
}

uint32_t wire_takes(const struct port *from)
{
    const struct wire *wire = from->wire;
    uint32_t takes = wire && wire->n > 1 ? UINT32_MAX : 0;
    for (uint32_t i = 0; takes && i < wire->n; i++) {
        struct port *to = wire->ports[i];
        if (to == from)
            continue;
        if (to->ops->takes)
            takes &= to->ops->takes(to);
        else if (!(to->flags & PORT_OFFLOAD))
            takes = 0;
    }
    return takes;
}

unsigned wire_pass_on(struct line *line, unsigned queue, const struct frame *frames, unsigned n)
{
    struct port *port = line->source.port;
    if (line->direction == IMPAIR_IN)
        return route(port, queue, &line->source.parts, frames, n);
    port->parts = &line->source.parts;
    return deliver_now(port, queue, frames, n);
}

/* Whether frames of this source go to this queue. */
static bool goes_to(const struct source *source, const struct port *to, unsigned queue)
{
    return !to->active || source->queue % to->active == queue;
}

void wire_has_room(struct port *port, unsigned queue)
{
    struct wire *wire = port->wire;
    if (unlikely(port->out_line != NULL) && port->out_line->source.blocked)
        worker_run(&port->out_line->source);
    if (!wire)
        return;
    for (uint32_t i = 0; i < wire->n; i++) {
        struct port *from = wire->ports[i];
        if (from == port)
            continue;
        for (uint32_t q = 0; q < from->queues; q++)
            if (from->sources[q].blocked && goes_to(&from->sources[q], port, queue))
                port_run(from, q);
        if (unlikely(from->in_line != NULL) && from->in_line->source.blocked)
            worker_run(&from->in_line->source);
    }
}

static bool await_room_at(struct port *to, unsigned queue)
{
    if (!to->active || to->lost)
        return true; /* it drops */
    return to->ops->await_room && to->ops->await_room(to, queue % to->active);
}

bool wire_await_room(struct source *source)
{
    struct wire *wire = source->port->wire;
    bool room = false;
    if (source->line && source->line->direction == IMPAIR_OUT)
        return await_room_at(source->port, source->queue);
    if (!wire)
        return true;
    for (uint32_t i = 0; i < wire->n; i++) {
        struct port *to = wire->ports[i];
        if (to != source->port && (to->out_line || await_room_at(to, source->queue)))
            room = true;
    }
    return room;
}

bool wire_faulted(struct port *port, const void *address)
{
    struct wire *wire = port->wire;
    bool found = port->ops->faulted && port->ops->faulted(port, address);
    for (uint32_t i = 0; wire && i < wire->n; i++) {
        struct port *other = wire->ports[i];
        if (other != port && other->ops->faulted && other->ops->faulted(other, address))
            found = true;
    }
    return found;
}

struct injection {
    struct port *port;
    unsigned queue;
    uint32_t direction;
    const struct frame *frame;
    bool taken;
};

static void inject(void *context)
{
    struct injection *injection = context;
    unsigned (*send)(struct port *, unsigned, const struct frame *, unsigned) =
        injection->direction == INJECT_OUT ? deliver_now : wire_send; /* control has impaired what it sends out */
    injection->port->parts = NULL;
    injection->taken = send(injection->port, injection->queue, injection->frame, 1) == 1;
}

bool wire_inject(struct port *port, unsigned queue, uint32_t direction, const struct frame *frame)
{
    struct injection injection = {port, queue, direction, frame, false};
    uint32_t *parts = &port->sources[queue].parts, kept = *parts; /* those of the port's own frame that waits */
    *parts = 0;
    if (!fault_guarded(inject, &injection))
        wire_faulted(port, fault.address);
    *parts = kept;
    return injection.taken;
}

/* -- changes -------------------------------------------------------------------------------------------------- */

static struct wire everywhere = {.held = true}; /* where HOLD puts all ports; it has a list of none */

void port_run_all(struct port *port)
{
    for (uint32_t i = 0; i < port->queues; i++) {
        port->sources[i].parts = 0;
        port_run(port, i);
    }
    line_run_all(port);
}

void wire_run_others(struct port *port)
{
    struct wire *wire = port->wire;
    for (uint32_t i = 0; wire && i < wire->n; i++)
        if (wire->ports[i] != port)
            port_run_all(wire->ports[i]);
}

void wire_leave(struct port *port)
{
    struct wire *wire = port->wire;
    if (!wire)
        return;
    if (wire == &everywhere) {
        port->wire = NULL;
        port_run_all(port);
        return;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < wire->n; i++)
        if (wire->ports[i] != port)
            wire->ports[kept++] = wire->ports[i];
    wire->n = kept;
    wire->held = kept == 1; /* control is about to give it a new wire */
    port->wire = NULL;
    port_run_all(port);
    for (uint32_t i = 0; i < kept; i++)
        port_run_all(wire->ports[i]); /* what waited for this port may go on */
}

void wires_hold(void)
{
    for (uint32_t i = 0; i < port_end; i++)
        if (ports[i] && ports[i]->wire)
            ports[i]->wire = &everywhere;
    for (uint32_t i = 0; i < wire_room; i++) {
        free(wires[i]);
        wires[i] = NULL;
    }
}

/* A wire runs on one worker; those with a tunnel on the one that reads the tunnels' sockets. */
static struct worker *worker_of(uint32_t id, struct port *const *members, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (members[i]->kind == PORT_TUNNEL)
            return &workers[0];
    return &workers[id % worker_count];
}

int wire_set(uint32_t id, struct port *const *members, uint32_t n)
{
    if (!grow((void ***)&wires, &wire_room, id))
        return ENOMEM;
    struct wire *before = wires[id], *wire = NULL;
    if (n) {
        wire = malloc(sizeof *wire + n * sizeof *wire->ports);
        if (!wire)
            return ENOMEM;
        *wire = (struct wire){.id = id, .n = n, .held = n == 1};
        memcpy(wire->ports, members, n * sizeof *members);
    }
    for (uint32_t i = 0; i < n; i++)
        if (members[i]->wire && members[i]->wire != before)
            wire_leave(members[i]);
    for (uint32_t i = 0; before && i < before->n; i++)
        before->ports[i]->wire = NULL;
    struct worker *worker = worker_of(id, members, n);
    for (uint32_t i = 0; i < n; i++) {
        members[i]->wire = wire;
        members[i]->started = true;
        worker_move_port(members[i], worker);
    }
    /* All of them look again: who waited for a port that left, and who was not polled before. */
    for (uint32_t i = 0; before && i < before->n; i++)
        port_run_all(before->ports[i]);
    for (uint32_t i = 0; i < n; i++)
        port_run_all(members[i]);
    wires[id] = wire;
    free(before);
    return 0;
}
