/* Delay lines: the frames of one impaired direction of a port, on their way. wire.c puts frames in, worker.c gives a line
 * its turns, and channel.c makes and changes lines.
 *
 * A line never stops its source: what does not fit is dropped. A line whose next place has no room waits, as a source
 * does. */
#ifndef LINE_H
#define LINE_H

#include "impair.h"
#include "pool.h"
#include "worker.h"

struct call;

struct line {
    struct source source; /* of the port; its queue is the one of the frame that waits for room */
    struct due due;       /* in the worker's heap: when the line has to have a turn */
    uint32_t direction;
    uint32_t limit;
    struct impairment impair;
    int16_t *table;
    struct pool pool;
    struct kept *first, *last; /* in the order in which they are due ... */
    struct due_heap early;     /* ... and those that came later than one that is due after them */
    struct kept *ready, *ready_last; /* due: they leave in this order */
    uint32_t ready_count;
    uint32_t waiting; /* all of them */
    uint64_t waiting_bytes;
    uint64_t number; /* of the next frame */
    uint64_t passed, over_limit;
    struct line *next; /* discarded, or kept: */
    uint32_t of;       /* the number of the port that was recalled */
};

/* Main thread: IMPAIR and IMPAIR_STATS. */
int impair_request(struct call *call);
int impair_stats_request(struct call *call);
int line_take_request(struct call *call);
int lines_drop_request(struct call *call);

/* Main thread. Begin, change or end (flags without IMPAIR_ON) an impairment. The body's values are within their bounds;
 * `reply` is filled in. 0 or an errno. */
int line_set(struct port *port, const struct message_impair *body, struct impair_reply *reply);

/* Main thread, locked. The line of this direction, or NULL. */
struct line *line_of(struct port *port, uint32_t direction);
void line_report(const struct line *line, struct impair_reply *reply);

/* Main thread, locked: the port is removed, and its lines with it. What they hold is freed by line_free_discarded,
 * without the lock: that can take some ms. */
void line_remove_all(struct port *port);
void line_free_discarded(void);

/* Main thread, locked: the port is recalled; what is under way is kept. Returns how many lines that are. */
unsigned line_keep_all(struct port *port);

/* Main thread. The struct kept_line of each line that is kept of this port; returns how many bytes. */
size_t lines_report(uint32_t of, uint8_t *data);

/* Main thread, locked. The port gets a line that was kept. NULL: there is none. */
struct line *line_take_kept(struct port *port, uint32_t of, uint32_t direction);

/* Main thread. End all lines that are kept. */
void lines_drop_kept(void);

/* Put frames in. All are taken. */
unsigned line_take(struct line *line, unsigned queue, const struct frame *frames, unsigned n);

/* Worker: pass on what is due. Returns how many frames left. */
unsigned line_poll(struct line *line);

/* When the first frame is due; UINT64_MAX: there is none. */
uint64_t line_due_ns(const struct line *line);

/* The port's lines look again whether there is room: where they lead has changed. */
void line_run_all(struct port *port);

#endif
