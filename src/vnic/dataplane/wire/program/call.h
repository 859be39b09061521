/* One request of control while it is obeyed. channel.c makes it; the handlers of other files answer by it. */
#ifndef CALL_H
#define CALL_H

#include <stddef.h>

#include "protocol.h"

#define TEXT_MAX 256

struct port;

/* A request as it came, and its reply as it grows. */
struct call {
    union {
        const uint8_t *bytes;
        const struct message_head *head;
        const struct message_hello *hello;
        const struct message_port_add *port_add;
        const struct message_port_remove *port_remove;
        const struct message_wire_set *wire_set;
        const struct message_filter *filter;
        const struct message_dump *dump;
        const struct message_inject *inject;
        const struct message_stats *stats;
        const struct message_queues *queues;
        const struct message_socket_add *socket_add;
        const struct message_socket_remove *socket_remove;
        const struct message_ccm_set *ccm_set;
        const struct message_port_to_control *port_to_control;
        const struct message_tunnel_stats *tunnel_stats;
        const struct message_socket_stats *socket_stats;
        const struct message_doorbell *doorbell;
        const struct message_impair *impair;
        const struct message_impair_stats *impair_stats;
        const struct message_port_recall *port_recall;
        const struct message_line_take *line_take;
    };
    size_t len;
    int *fds; /* set to -1 where they are taken */
    unsigned fd_count;
    uint8_t *data; /* of the reply */
    size_t data_len;
    char text[TEXT_MAX];
};

/* The request is refused: one line of text goes into the reply. Returns `error`. */
int refuse(struct call *call, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The port of this number. NULL: there is none; then the request is refused with *error. */
struct port *named(struct call *call, uint32_t id, int *error);

#endif
