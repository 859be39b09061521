/* The requests about tunnels and their sockets; channel.c has them in its table. Each returns 0 or refuses the call. */
#ifndef TUNNEL_REQUESTS_H
#define TUNNEL_REQUESTS_H

#include "call.h"

int socket_add(struct call *call);
int socket_remove(struct call *call);
int ccm_set(struct call *call);
int port_to_control(struct call *call);
int tunnel_stats(struct call *call);
int socket_stats(struct call *call);

/* Locked. The port's struct tunnel_stats; returns how many bytes. */
size_t tunnel_report(struct port *port, uint8_t *data);

#endif
