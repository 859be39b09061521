/* Frames that wait for their time. See line.h; impair.h has what happens to each, pool.h where it lies. */
#include "line.h"

#include <errno.h>
#include <string.h>

#include "table.h"

#define TURN_BYTES (256u * 1024u) /* what one turn passes on: some 50 us of copies */

static struct line *discarded, *kept_lines;
static unsigned line_count;

/* -- the frames, by their time -------------------------------------------------------------------------------- */

static struct kept *kept_of(struct due *due)
{
    return due ? (struct kept *)(void *)((uint8_t *)due - offsetof(struct kept, due)) : NULL;
}

/* The one that is due first, of those that are not ready. */
static struct kept *first_due(const struct line *line)
{
    struct kept *early = kept_of(due_first(&line->early));
    if (!line->first || (early && due_before(&early->due, &line->first->due)))
        return early;
    return line->first;
}

uint64_t line_due_ns(const struct line *line)
{
    if (line->ready)
        return line->ready->due.ns;
    struct kept *kept = first_due(line);
    return kept ? kept->due.ns : UINT64_MAX;
}

/* False: there is no memory for its place. */
static bool put(struct line *line, struct kept *kept, uint64_t due_ns)
{
    kept->due = (struct due){.ns = due_ns, .number = line->number};
    kept->next = NULL;
    if (line->first && due_ns < line->last->due.ns) {
        if (!due_reserve(&line->early, line->early.count + 1))
            return false;
        due_insert(&line->early, &kept->due);
    } else {
        *(line->first ? &line->last->next : &line->first) = kept;
        line->last = kept;
    }
    line->number++;
    line->waiting++;
    line->waiting_bytes += kept->len;
    return true;
}

static void make_ready(struct line *line, struct kept *kept)
{
    if (kept->due.place)
        due_remove(&line->early, &kept->due);
    else
        line->first = kept->next;
    kept->next = NULL;
    *(line->ready ? &line->ready_last->next : &line->ready) = kept;
    line->ready_last = kept;
    line->ready_count++;
}

static void leave(struct line *line)
{
    struct kept *kept = line->ready;
    line->ready = kept->next;
    line->ready_count--;
    line->waiting--;
    line->waiting_bytes -= kept->len;
    pool_free(&line->pool, kept);
}

/* -- in ------------------------------------------------------------------------------------------------------- */

static bool is_full(const struct line *line, uint32_t len)
{
    return line->waiting >= line->limit || line->waiting_bytes + len > IMPAIR_BYTES_MAX;
}

static void put_kept(struct line *line, unsigned queue, struct kept *kept, const struct verdict *verdict, uint64_t now)
{
    kept->queue = (uint16_t)queue;
    if (is_full(line, kept->len) || !put(line, kept, impair_due(&line->impair, verdict, now, kept->len))) {
        line->over_limit++;
        pool_free(&line->pool, kept);
    }
}

static void put_copy(struct line *line, unsigned queue, const struct frame *frame, const struct verdict *verdict,
                     uint64_t now)
{
    struct kept *kept = is_full(line, frame->len) ? NULL : pool_keep(&line->pool, frame);
    if (likely(kept != NULL))
        put_kept(line, queue, kept, verdict, now);
    else
        line->over_limit++;
}

/* The parts of a frame that is completed to be corrupted. */
struct parts {
    struct pool *pool;
    struct kept *first, *last;
    uint32_t count;
};

static bool add_part(void *context, const struct frame *frame)
{
    struct parts *parts = context;
    struct kept *kept = pool_keep(parts->pool, frame);
    if (!kept)
        return false;
    kept->next = NULL;
    *(parts->first ? &parts->last->next : &parts->first) = kept;
    parts->last = kept;
    parts->count++;
    return true;
}

static void flip_bit(const struct parts *parts, const struct verdict *verdict)
{
    uint32_t number = (uint32_t)((uint64_t)verdict->part * parts->count >> 32);
    struct kept *kept = parts->first;
    while (number--)
        kept = kept->next;
    uint32_t bit = (uint32_t)((uint64_t)verdict->bit * (8u * kept->len) >> 32);
    *kept_byte(kept, bit / 8) ^= (uint8_t)(1u << bit % 8);
}

/* A pending checksum would repair what is corrupted before it, so the frame is completed first. One whose header does
 * not fit it goes on as it is: its receiver drops it. */
static void put_corrupted(struct line *line, unsigned queue, const struct frame *frame, const struct verdict *verdict,
                          uint64_t now)
{
    struct parts parts = {.pool = &line->pool};
    struct iovec iov[KEPT_IOV];
    struct kept *whole = pool_keep(&line->pool, frame); /* what follows does not meet a fault of guest memory */
    if (!whole) {
        line->over_limit++;
        return;
    }
    struct frame copy = {.iov = iov, .iovcnt = kept_pieces(whole, iov), .len = whole->len, .hdr = whole->hdr};
    unsigned done = 0;
    enum offload_result result = offload_complete(&copy, &done, add_part, &parts);
    if (result == OFFLOAD_DONE)
        flip_bit(&parts, verdict);
    for (struct kept *kept = parts.first, *next; kept; kept = next) {
        next = kept->next;
        if (result == OFFLOAD_DONE)
            put_kept(line, queue, kept, verdict, now);
        else
            pool_free(&line->pool, kept);
    }
    if (result == OFFLOAD_BAD) {
        put_kept(line, queue, whole, verdict, now);
    } else {
        line->over_limit += result == OFFLOAD_NO_ROOM;
        pool_free(&line->pool, whole);
    }
}

unsigned line_take(struct line *line, unsigned queue, const struct frame *frames, unsigned n)
{
    uint64_t now = now_ns();
    for (unsigned i = 0; i < n; i++) {
        struct verdict verdicts[2];
        unsigned copies = impair_decide(&line->impair, &frames[i], verdicts);
        for (unsigned k = 0; k < copies; k++) {
            if (unlikely(verdicts[k].corrupt))
                put_corrupted(line, queue, &frames[i], &verdicts[k], now);
            else
                put_copy(line, queue, &frames[i], &verdicts[k], now);
        }
    }
    worker_await_line(line);
    return n;
}

/* -- out ------------------------------------------------------------------------------------------------------ */

/* The first frames of one queue that are ready, as frames to pass on. */
static unsigned gather(const struct line *line, struct frame *frames, struct iovec *iov)
{
    unsigned n = 0;
    size_t bytes = 0;
    uint16_t queue = line->ready->queue;
    for (struct kept *kept = line->ready; kept && n < BATCH && kept->queue == queue && bytes < TURN_BYTES;
         kept = kept->next) {
        unsigned count = kept_pieces(kept, iov);
        frames[n++] = (struct frame){.iov = iov, .iovcnt = count, .len = kept->len, .hdr = kept->hdr};
        iov += count;
        bytes += kept->len;
    }
    return n;
}

#define GATHER_IOV (BATCH + TURN_BYTES / BLOCK_ROOM + KEPT_IOV)

unsigned line_poll(struct line *line)
{
    static _Thread_local struct frame frames[BATCH];
    static _Thread_local struct iovec iov[GATHER_IOV];
    uint64_t now = now_ns();
    for (struct kept *kept; line->ready_count < BATCH && (kept = first_due(line)) && kept->due.ns <= now;)
        make_ready(line, kept);
    if (!line->ready)
        return 0;
    unsigned queue = line->ready->queue, n = gather(line, frames, iov);
    line->source.queue = queue;
    unsigned taken = wire_pass_on(line, queue, frames, n);
    line->passed += taken;
    for (unsigned i = 0; i < taken; i++)
        leave(line);
    if (taken < n)
        line->source.blocked = true;
    if (!line->waiting)
        pool_is_empty(&line->pool);
    return taken;
}

/* -- changes -------------------------------------------------------------------------------------------------- */

static struct line **place_of(struct port *port, uint32_t direction)
{
    return direction == IMPAIR_OUT ? &port->out_line : &port->in_line;
}

struct line *line_of(struct port *port, uint32_t direction)
{
    return *place_of(port, direction);
}

void line_report(const struct line *line, struct impair_reply *reply)
{
    *reply = (struct impair_reply){
        .state = line->impair.state,
        .passed = line->passed,
        .lost = line->impair.lost,
        .duplicated = line->impair.duplicated,
        .corrupted = line->impair.corrupted,
        .reordered = line->impair.reordered,
        .over_limit = line->over_limit,
        .too_long = line->impair.too_long,
        .waiting = line->waiting,
    };
}

static void discard(struct line **place)
{
    struct line *line = *place;
    if (!line)
        return;
    *place = NULL;
    line_count--;
    worker_forget_line(line);
    line->next = discarded;
    discarded = line;
}

void line_remove_all(struct port *port)
{
    discard(&port->out_line);
    discard(&port->in_line);
}

void line_free_discarded(void)
{
    while (discarded) {
        struct line *line = discarded;
        discarded = line->next;
        pool_close(&line->pool);
        free(line->early.items);
        free(line->table);
        free(line);
    }
}

static unsigned keep(struct line **place, uint32_t of)
{
    struct line *line = *place;
    if (!line)
        return 0;
    *place = NULL;
    worker_forget_line(line);
    line->source.port = NULL;
    line->source.blocked = false;
    line->source.parts = 0;
    line->of = of;
    line->next = kept_lines;
    kept_lines = line;
    return 1;
}

unsigned line_keep_all(struct port *port)
{
    return keep(&port->out_line, port->id) + keep(&port->in_line, port->id);
}

size_t lines_report(uint32_t of, uint8_t *data)
{
    size_t bytes = 0;
    for (const struct line *line = kept_lines; line; line = line->next) {
        struct kept_line entry = {.direction = line->direction};
        if (line->of != of)
            continue;
        line_report(line, &entry.reply);
        memcpy(data + bytes, &entry, sizeof entry);
        bytes += sizeof entry;
    }
    return bytes;
}

struct line *line_take_kept(struct port *port, uint32_t of, uint32_t direction)
{
    for (struct line **at = &kept_lines; *at; at = &(*at)->next) {
        struct line *line = *at;
        if (line->of != of || line->direction != direction)
            continue;
        *at = line->next;
        line->next = NULL;
        line->source.port = port;
        *place_of(port, direction) = line;
        worker_run(&line->source); /* it looks when its frames are due */
        return line;
    }
    return NULL;
}

void lines_drop_kept(void)
{
    while (kept_lines) {
        struct line *line = kept_lines;
        kept_lines = line->next;
        line_count--;
        line->next = discarded;
        discarded = line;
    }
    line_free_discarded();
}

void line_run_all(struct port *port)
{
    struct line *lines[] = {port->out_line, port->in_line};
    for (unsigned i = 0; i < 2; i++) {
        if (!lines[i])
            continue;
        lines[i]->source.parts = 0;
        if (lines[i]->source.blocked)
            worker_run(&lines[i]->source);
    }
}

static void configure(struct line *line, const struct message_impair *body, int16_t **table)
{
    struct impairment *impair = &line->impair;
    int16_t *before = line->table;
    if (body->rate != impair->rate)
        impair->rest = 0;
    line->limit = body->limit;
    impair->delay_ns = body->delay_ns;
    impair->jitter_ns = body->jitter_ns;
    impair->rate = body->rate;
    impair->loss = body->loss;
    impair->duplicate = body->duplicate;
    impair->corrupt = body->corrupt;
    impair->reorder = body->reorder;
    memcpy(impair->correlation, body->correlation, sizeof impair->correlation);
    impair->gap = body->gap;
    impair->max_frame = body->max_frame;
    impair->entries = body->entries;
    impair->table = line->table = *table;
    *table = before;
    if (body->flags & IMPAIR_STATE)
        impair->state = body->state;
}

static struct line *line_make(struct port *port, const struct message_impair *body)
{
    struct line *line = calloc(1, sizeof *line);
    if (!line)
        return NULL;
    line->source = (struct source){.port = port, .line = line};
    line->direction = body->direction;
    line->impair.state = body->state;
    return line;
}

static void set_locked(struct port *port, const struct message_impair *body, struct line *made, int16_t **table,
                       struct impair_reply *reply)
{
    struct line **place = place_of(port, body->direction);
    if (body->flags & IMPAIR_ON) {
        if (made) {
            *place = made;
            line_count++;
        }
        configure(*place, body, table);
        line_report(*place, reply);
        if (!made)
            return;
    } else {
        line_report(*place, reply);
        discard(place);
    }
    /* Who waits for this port, or for its wire, may go on. */
    port_run_all(port);
    wire_run_others(port);
}

int line_set(struct port *port, const struct message_impair *body, struct impair_reply *reply)
{
    bool on = body->flags & IMPAIR_ON;
    struct line *line = line_of(port, body->direction), *made = NULL; /* only this thread makes and ends lines */
    int16_t *table = NULL;
    size_t table_bytes = on ? body->entries * sizeof *table : 0;
    if (!on && !line)
        return ENOENT;
    if ((on && !line && !(made = line_make(port, body))) || (table_bytes && !(table = malloc(table_bytes)))) {
        free(made);
        return ENOMEM;
    }
    if (table)
        memcpy(table, body->table, table_bytes);
    workers_lock(); /* all: a line needs a place with any worker that its port may move to */
    bool room = !made || workers_reserve_lines(line_count + 1);
    if (room)
        set_locked(port, body, made, &table, reply);
    workers_unlock();
    line_free_discarded();
    free(table);
    if (!room)
        free(made);
    return room ? 0 : ENOMEM;
}
