/* Requests about tunnels and their sockets. See tunnel_requests.h, protocol.h. */
#include "tunnel_requests.h"

#include <errno.h>
#include <string.h>

#include "table.h"
#include "tunnel.h"
#include "worker.h"

static struct tunnel_port *named_tunnel(struct call *call, uint32_t id, int *error)
{
    struct port *port = named(call, id, error);
    if (port && port->kind != PORT_TUNNEL) {
        *error = refuse(call, EINVAL, "port: %u is not a tunnel", id);
        return NULL;
    }
    return (struct tunnel_port *)port;
}

int socket_add(struct call *call)
{
    uint32_t id = call->socket_add->socket;
    int type, domain;
    socklen_t type_len = sizeof type, domain_len = sizeof domain;
    if (id >= SOCKETS_MAX)
        return refuse(call, EINVAL, "socket: %u", id);
    if (call->fd_count != 1)
        return refuse(call, EINVAL, "fds: %u", call->fd_count);
    if (getsockopt(call->fds[0], SOL_SOCKET, SO_TYPE, &type, &type_len) ||
        getsockopt(call->fds[0], SOL_SOCKET, SO_DOMAIN, &domain, &domain_len))
        return refuse(call, errno, "fds: %s", strerror(errno));
    if (type != SOCK_DGRAM || (domain != AF_INET && domain != AF_INET6))
        return refuse(call, EPROTOTYPE, "fds: not a UDP socket");
    int error = tunnel_socket_add(id, call->fds[0]);
    if (error)
        return refuse(call, error, "socket: %s", strerror(error));
    call->fds[0] = -1;
    return 0;
}

int socket_remove(struct call *call)
{
    uint32_t id = call->socket_remove->socket;
    int error = tunnel_socket_remove(id);
    return error ? refuse(call, error, "socket: %u: %s", id, strerror(error)) : 0;
}

int ccm_set(struct call *call)
{
    const struct message_ccm_set *body = call->ccm_set;
    int error = 0;
    struct tunnel_port *tunnel = named_tunnel(call, body->port, &error);
    if (!tunnel)
        return error;
    if (body->status < INTERFACE_UP || body->status > INTERFACE_LOWER_LAYER_DOWN)
        return refuse(call, EINVAL, "status: %u", body->status);
    mep_set_status(tunnel, (uint8_t)body->status);
    return 0;
}

int port_to_control(struct call *call)
{
    const struct message_port_to_control *body = call->port_to_control;
    int error = 0;
    struct tunnel_port *tunnel = named_tunnel(call, body->port, &error);
    if (!tunnel)
        return error;
    if (body->on > 1)
        return refuse(call, EINVAL, "on: %u", body->on);
    struct worker *worker = tunnel->port.worker;
    worker_lock(worker);
    tunnel->to_control = body->on;
    worker_unlock(worker);
    return 0;
}

size_t tunnel_report(struct port *port, uint8_t *data)
{
    struct tunnel_port *tunnel = (struct tunnel_port *)(void *)port;
    pthread_mutex_lock(&tunnel->mep.lock);
    memcpy(data, &tunnel->stats, sizeof tunnel->stats);
    pthread_mutex_unlock(&tunnel->mep.lock);
    return sizeof tunnel->stats;
}

int tunnel_stats(struct call *call)
{
    int error = 0;
    struct tunnel_port *tunnel = named_tunnel(call, call->tunnel_stats->port, &error);
    if (!tunnel)
        return error;
    struct worker *worker = tunnel->port.worker;
    worker_lock(worker);
    call->data_len = tunnel_report(&tunnel->port, call->data);
    worker_unlock(worker);
    return 0;
}

int socket_stats(struct call *call)
{
    uint32_t id = call->socket_stats->socket;
    struct tunnel_socket *socket = tunnel_socket_find(id);
    if (!socket)
        return refuse(call, ENOENT, "socket: there is no socket %u", id);
    struct worker *worker = socket->port.worker;
    worker_lock(worker);
    memcpy(call->data, &socket->stats, sizeof socket->stats);
    worker_unlock(worker);
    call->data_len = sizeof socket->stats;
    return 0;
}
