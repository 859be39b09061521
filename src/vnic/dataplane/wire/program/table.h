/* All ports and wires, by the numbers that control gave them. channel.c changes them; worker.c asks about wires. */
#ifndef TABLE_H
#define TABLE_H

#include "wire.h"

struct wire {
    uint32_t id;
    uint32_t n;
    bool held; /* control made it of one port: its frames wait */
    struct port *ports[];
};

/* Main thread. NULL: there is none of this number. */
struct port *port_find(uint32_t id);

/* The port with the lowest number at or above `id`, or NULL. */
struct port *port_next(uint32_t id);

/* Main thread: make and end a port. `port_make` gives a zeroed struct of the ops' size with a worker; NULL: no memory,
 * or the number is taken (errno). `port_enter` makes it known, `port_free` forgets one, known or not. */
struct port *port_make(uint32_t id, const struct port_ops *ops, uint32_t queues);
void port_enter(struct port *port);
void port_free(struct port *port);

/* Main thread, workers locked. Make the wire have these ports and no others; n = 0 removes it. 0 or an errno; then
 * nothing has changed. */
int wire_set(uint32_t id, struct port *const *ports, uint32_t n);

/* Main thread, workers locked: HOLD. */
void wires_hold(void);

/* Main thread, workers locked: the port leaves its wire. */
void wire_leave(struct port *port);

/* Locked: all that comes from this port looks again whether there is room; what comes from the others of its wire. */
void port_run_all(struct port *port);
void wire_run_others(struct port *port);

/* Deliver frames at one port, as wire_send does for each port of a wire. */
unsigned wire_deliver(struct port *to, unsigned queue, const struct frame *frames, unsigned n);

/* Worker: frames leave a line for where it leads now. Returns how many were taken. */
unsigned wire_pass_on(struct line *line, unsigned queue, const struct frame *frames, unsigned n);

/* Main thread, locked: INJECT. Whether the frame was taken. */
bool wire_inject(struct port *port, unsigned queue, uint32_t direction, const struct frame *frame);

/* Worker: ask for a notification of room for a blocked source. True: there is room already. */
bool wire_await_room(struct source *source);

/* Worker: SIGBUS at this address during the turn of a port. True: a port of its wire has it. */
bool wire_faulted(struct port *port, const void *address);

#endif
