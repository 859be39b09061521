/* The threads that move frames: one epoll and one list of busy sources each. channel.c starts them; wire.c and the ports
 * reach them through wire.h.
 *
 * A worker holds its lock except while it sleeps. The main thread takes the lock with worker_lock, which makes a busy
 * worker let go after the turn of the present source. */
#ifndef WORKER_H
#define WORKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "due.h"
#include "wire.h"

/* One queue of a port as a place that frames come from, or a line of it. */
struct source {
    struct port *port;
    struct line *line;              /* NULL: a queue */
    struct source *next, *previous; /* in the worker's list while `busy` */
    uint64_t idle_ns;               /* since when its turns find nothing; 0: the last one found frames */
    uint32_t queue;
    uint32_t parts;                 /* of its next frame that the wire took already (parts_before) */
    struct source *next_to_tell;
    bool busy;
    bool to_tell;                   /* in the worker's list `to_tell` */
    bool blocked;                   /* its last turn found no room in the wire */
};

struct slot {
    struct watch *watch; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
};

struct worker {
    pthread_t thread;
    pthread_mutex_t lock; /* what follows, the ports and the wires of this worker */
    pthread_mutex_t gate; /* held by who wants the lock, so that the worker does not take it again at once */
    atomic_uint wanted;
    int epoll;
    int wake; /* an eventfd that ends its sleep */
    int timer; /* and a timerfd that does */
    uint64_t timer_ns; /* what it is set for; 0: nothing */
    struct due_heap lines; /* those that sleep until their first frame is due */
    uint64_t spin_ns;
    struct source busy; /* the list's head */
    struct source *current;
    struct source *to_tell; /* whose ports are told when there is nothing else to do; empty while the lock is free */
    uint64_t to_tell_ns;    /* a time soon after the first of them came; 0: none */
    uint64_t now_ns;        /* when the last pass began */
    struct slot *slots;
    uint32_t slot_count, free_slot;
};

extern struct worker *workers;
extern unsigned worker_count;

/* Start them, once, and wait until all of them run. 0 or an errno. */
int workers_start(unsigned count, uint32_t spin_us);

/* Main thread. */
void worker_lock(struct worker *worker);
void worker_unlock(struct worker *worker);
void workers_lock(void); /* all of them */
void workers_unlock(void);

/* Locked: give a source turns. */
void worker_run(struct source *source);

/* Locked: give the line a turn when its first frame is due, unless it has turns, or waits for room. */
void worker_await_line(struct line *line);

/* Locked: no more turns for it. */
void worker_forget_line(struct line *line);

/* Main thread, workers locked: each worker can await so many lines. False: there is no memory. */
bool workers_reserve_lines(unsigned count);

/* Locked. Take a port's watches and sources from its worker, and give them to another one. */
void worker_remove_port(struct port *port);
void worker_move_port(struct port *port, struct worker *to);

#endif
