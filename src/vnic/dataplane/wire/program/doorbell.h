/* Kicks of a VM that are messages on a vfio-user connection, for a port whose VM has no eventfds for them. channel.c makes
 * one, vhost_user.c frees it with its port. */
#ifndef DOORBELL_H
#define DOORBELL_H

#include "vhost_port.h"

struct message_doorbell;

/* Main thread, locked. 0, or an errno with one line of text; the descriptors (struct message_doorbell tells which) are
 * the port's when 0. */
int doorbell_add(struct vhost_port *vhost, const struct message_doorbell *body, const int *fds, char *text,
                 size_t text_size);
void doorbell_remove(struct vhost_port *vhost);

#endif
