/* Control's requests about impairments. channel.c calls them; line.c does what they ask for. */
#include <errno.h>
#include <string.h>

#include "call.h"
#include "line.h"

static bool is_impair_direction(uint32_t direction)
{
    return direction == IMPAIR_OUT || direction == IMPAIR_IN;
}

int impair_request(struct call *call)
{
    const struct message_impair *body = call->impair;
    int error = 0;
    struct port *port = named(call, body->port, &error);
    if (!port)
        return error;
    if (!is_impair_direction(body->direction))
        return refuse(call, EINVAL, "direction: %u", body->direction);
    if (body->flags & ~(uint32_t)(IMPAIR_ON | IMPAIR_STATE))
        return refuse(call, EINVAL, "flags: %#x", body->flags);
    if (!body->limit || body->limit > IMPAIR_LIMIT_MAX)
        return refuse(call, EINVAL, "limit: %u", body->limit);
    if (body->delay_ns > IMPAIR_NS_MAX || body->jitter_ns > IMPAIR_NS_MAX)
        return refuse(call, EINVAL, "%s: too long", body->delay_ns > IMPAIR_NS_MAX ? "delay_ns" : "jitter_ns");
    if (body->rate > IMPAIR_RATE_MAX)
        return refuse(call, EINVAL, "rate: %llu", (unsigned long long)body->rate);
    if (body->entries > IMPAIR_ENTRIES_MAX || call->len != sizeof *body + 2 * (size_t)body->entries)
        return refuse(call, EINVAL, "entries: %u in %zu bytes", body->entries, call->len);
    error = line_set(port, body, (struct impair_reply *)(void *)call->data);
    if (error)
        return refuse(call, error, "direction: %s", error == ENOENT ? "it is not impaired" : strerror(error));
    call->data_len = sizeof(struct impair_reply);
    return 0;
}

int impair_stats_request(struct call *call)
{
    const struct message_impair_stats *body = call->impair_stats;
    int error = 0;
    struct port *port = named(call, body->port, &error);
    if (!port)
        return error;
    struct line *line = is_impair_direction(body->direction) ? line_of(port, body->direction) : NULL;
    if (!line)
        return refuse(call, ENOENT, "direction: it is not impaired");
    struct worker *worker = port->worker;
    worker_lock(worker);
    line_report(line, (struct impair_reply *)(void *)call->data);
    worker_unlock(worker);
    call->data_len = sizeof(struct impair_reply);
    return 0;
}

int line_take_request(struct call *call)
{
    const struct message_line_take *body = call->line_take;
    int error = 0;
    struct port *port = named(call, body->port, &error);
    if (!port)
        return error;
    if (!is_impair_direction(body->direction))
        return refuse(call, EINVAL, "direction: %u", body->direction);
    if (line_of(port, body->direction))
        return refuse(call, EEXIST, "direction: port %u is impaired", port->id);
    struct worker *worker = port->worker;
    worker_lock(worker);
    struct line *line = line_take_kept(port, body->of, body->direction);
    if (line)
        line_report(line, (struct impair_reply *)(void *)call->data);
    worker_unlock(worker);
    if (!line)
        return refuse(call, ENOENT, "of: no line of port %u was kept", body->of);
    call->data_len = sizeof(struct impair_reply);
    return 0;
}

int lines_drop_request(struct call *call)
{
    (void)call;
    lines_drop_kept();
    return 0;
}
