/* The loop that moves frames: turns of the busy sources, a bounded time of polling, then sleep. See worker.h. */
#include "worker.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "line.h"
#include "memory.h"
#include "table.h"
#include "wake.h"

#define EVENTS 64
#define EVENTS_EVERY 16u /* passes over busy sources between two looks at the descriptors */
#define TELL_NS 50000u   /* how long a port that has to be told waits for frames that come meanwhile */
#define NO_SLOT UINT32_MAX
#define AHEAD_NS 50000u  /* a worker polls so long before a frame of a line is due: a timer may wake it that late */

struct worker *workers;
unsigned worker_count;

static _Thread_local bool is_worker;
static atomic_uint running; /* workers that have reached their loop */

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* -- the list of busy sources --------------------------------------------------------------------------------- */

static void set_busy(struct worker *worker, struct source *source)
{
    source->idle_ns = 0;
    if (source->busy)
        return;
    source->busy = true;
    source->next = &worker->busy;
    source->previous = worker->busy.previous;
    source->previous->next = source->next->previous = source;
}

static void set_idle(struct source *source)
{
    if (!source->busy)
        return;
    source->busy = false;
    source->previous->next = source->next;
    source->next->previous = source->previous;
}

static void wake_up(struct worker *worker)
{
    if (!is_worker)
        eventfd_write(worker->wake, 1);
}

void port_tell_later(struct port *port, unsigned queue)
{
    struct source *source = &port->sources[queue];
    if (source->to_tell)
        return;
    source->to_tell = true;
    source->next_to_tell = port->worker->to_tell;
    port->worker->to_tell = source;
}

void worker_run(struct source *source)
{
    set_busy(source->port->worker, source);
    wake_up(source->port->worker);
}

void port_run(struct port *port, unsigned queue)
{
    if (port->started && !port->lost)
        worker_run(&port->sources[queue]);
}

/* -- lines ---------------------------------------------------------------------------------------------------- */

static struct line *line_of_due(struct due *due)
{
    return (struct line *)(void *)((uint8_t *)due - offsetof(struct line, due));
}

void worker_await_line(struct line *line)
{
    struct worker *worker = line->source.port->worker;
    uint64_t due_ns = line_due_ns(line);
    if (line->source.busy || line->source.blocked || (line->due.place && line->due.ns == due_ns))
        return;
    if (line->due.place)
        due_remove(&worker->lines, &line->due);
    if (due_ns == UINT64_MAX)
        return;
    line->due.ns = due_ns;
    due_insert(&worker->lines, &line->due);
    wake_up(worker);
}

void worker_forget_line(struct line *line)
{
    set_idle(&line->source);
    if (line->due.place)
        due_remove(&line->source.port->worker->lines, &line->due);
}

bool workers_reserve_lines(unsigned count)
{
    for (unsigned i = 0; i < worker_count; i++)
        if (!due_reserve(&workers[i].lines, count))
            return false;
    return true;
}

/* Lines that have a frame to pass on become busy. */
static void wake_lines(struct worker *worker)
{
    uint64_t until = now_ns() + AHEAD_NS;
    for (struct due *due; (due = due_first(&worker->lines)) && due->ns <= until; worker->timer_ns = 0) {
        due_remove(&worker->lines, due);
        set_busy(worker, &line_of_due(due)->source);
    }
}

/* Before the worker sleeps. */
static void set_timer(struct worker *worker)
{
    struct due *due = due_first(&worker->lines);
    if (!due || due->ns == worker->timer_ns)
        return;
    uint64_t at = due->ns - AHEAD_NS;
    struct itimerspec when = {.it_value = {(time_t)(at / 1000000000u), (long)(at % 1000000000u)}};
    timerfd_settime(worker->timer, TFD_TIMER_ABSTIME, &when, NULL);
    worker->timer_ns = due->ns;
}

/* -- watches -------------------------------------------------------------------------------------------------- */

static int control(struct worker *worker, int what, struct watch *watch)
{
    struct epoll_event event = {
        .events = watch->events | EPOLLET,
        .data.u64 = (uint64_t)worker->slots[watch->slot].generation << 32 | watch->slot,
    };
    return epoll_ctl(worker->epoll, what, watch->fd, &event);
}

/* A number for the watch. Its generation tells an event of the kernel that came before the watch ended from one of
 * the next watch with that number. */
static bool take_slot(struct worker *worker, struct watch *watch)
{
    if (worker->free_slot == NO_SLOT) {
        uint32_t before = worker->slot_count, count = before ? 2 * before : 64;
        struct slot *slots = realloc(worker->slots, count * sizeof *slots);
        if (!slots)
            return false;
        for (uint32_t i = before; i < count; i++)
            slots[i] = (struct slot){.next_free = i + 1 < count ? i + 1 : NO_SLOT};
        worker->slots = slots;
        worker->slot_count = count;
        worker->free_slot = before;
    }
    watch->slot = worker->free_slot;
    worker->free_slot = worker->slots[watch->slot].next_free;
    worker->slots[watch->slot].watch = watch;
    return true;
}

static void free_slot(struct worker *worker, uint32_t slot)
{
    worker->slots[slot].watch = NULL;
    worker->slots[slot].generation++;
    worker->slots[slot].next_free = worker->free_slot;
    worker->free_slot = slot;
}

static void unwatch(struct worker *worker, struct watch *watch)
{
    epoll_ctl(worker->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
    free_slot(worker, watch->slot);
}

int port_watch(struct port *port, struct watch *watch, int fd, unsigned queue, uint32_t events)
{
    struct worker *worker = port->worker;
    if (watch->events && (!events || watch->fd != fd)) {
        unwatch(worker, watch);
        struct watch **at = &port->watches;
        while (*at != watch)
            at = &(*at)->next;
        *at = watch->next;
        watch->events = 0;
    }
    if (!events)
        return 0;
    uint32_t before = watch->events;
    watch->port = port;
    watch->fd = fd;
    watch->queue = queue;
    watch->events = events;
    if (before)
        return control(worker, EPOLL_CTL_MOD, watch);
    if (!take_slot(worker, watch)) {
        watch->events = 0;
        errno = ENOMEM;
        return -1;
    }
    if (control(worker, EPOLL_CTL_ADD, watch)) {
        free_slot(worker, watch->slot);
        watch->events = 0;
        return -1;
    }
    watch->next = port->watches;
    port->watches = watch;
    return 0;
}

void worker_remove_port(struct port *port)
{
    for (struct watch *watch = port->watches, *next; watch; watch = next) {
        next = watch->next;
        unwatch(port->worker, watch);
        watch->events = 0;
    }
    port->watches = NULL;
    for (uint32_t i = 0; i < port->queues; i++)
        set_idle(&port->sources[i]);
}

void worker_move_port(struct port *port, struct worker *to)
{
    struct worker *from = port->worker;
    struct line *lines[] = {port->out_line, port->in_line};
    if (from == to)
        return;
    for (unsigned i = 0; i < 2; i++)
        if (lines[i])
            worker_forget_line(lines[i]);
    port->worker = to;
    for (struct watch *watch = port->watches; watch; watch = watch->next) {
        unwatch(from, watch);
        /* A new entry reports readiness again, so no edge is lost. Without memory the port is deaf, and control knows. */
        if (!take_slot(to, watch)) {
            watch->events = 0;
            event_port_lost(port, watch->queue, ENOMEM);
        } else if (control(to, EPOLL_CTL_ADD, watch)) {
            event_port_lost(port, watch->queue, errno);
        }
    }
    for (struct watch **at = &port->watches; *at;) {
        if ((*at)->events)
            at = &(*at)->next;
        else
            *at = (*at)->next;
    }
    for (uint32_t i = 0; i < port->queues; i++) {
        set_idle(&port->sources[i]);
        port_run(port, i);
    }
    for (unsigned i = 0; i < 2; i++)
        if (lines[i])
            worker_run(&lines[i]->source);
}

/* -- the loop ------------------------------------------------------------------------------------------------- */

static void handle(struct worker *worker, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        uint32_t number = (uint32_t)events[i].data.u64, got = events[i].events;
        if (number == NO_SLOT) { /* the eventfd `wake` or the timer: never read, they report each change */
            continue;
        }
        struct slot *slot = &worker->slots[number];
        struct watch *watch = slot->watch;
        if (!watch || slot->generation != (uint32_t)(events[i].data.u64 >> 32))
            continue;
        if (watch->act) {
            watch->act(watch);
            continue;
        }
        struct port *port = watch->port;
        unsigned queue = watch->queue;
        if (got & ~(uint32_t)EPOLLOUT) {
            if (watch->room)
                wire_has_room(port, queue);
            else
                port_run(port, queue);
            if (watch->drain && !wake_drain(watch->fd, watch->drain))
                port_watch(port, watch, watch->fd, queue, 0);
        }
        if (got & EPOLLOUT && slot->watch == watch && port->ops->writable)
            port->ops->writable(port, queue);
    }
}

/* A line that waits for its time: not for long, or it sleeps. */
static void settle_line(struct line *line)
{
    uint64_t due_ns = line_due_ns(line);
    if (due_ns != UINT64_MAX && due_ns <= now_ns() + AHEAD_NS)
        return;
    set_idle(&line->source);
    worker_await_line(line);
}

/* The source has had a turn without frames: after some time of that it sleeps. */
static void settle(struct worker *worker, struct source *source, uint64_t now)
{
    struct port *port = source->port;
    if (source->line && !source->blocked) {
        settle_line(source->line);
        return;
    }
    if (!source->line && (port->lost || (!source->blocked && !port->ops->await_frames))) {
        set_idle(source); /* an edge of its descriptor comes */
        return;
    }
    if (!source->idle_ns)
        source->idle_ns = now;
    if (now - source->idle_ns < worker->spin_ns)
        return;
    bool more = source->blocked ? wire_await_room(source) : port->ops->await_frames(port, source->queue);
    if (more)
        source->idle_ns = 0;
    else
        set_idle(source);
}

/* A file of guest memory was truncated: the rings in it are broken, and the turn has not happened. */
static void recover(struct worker *worker)
{
    const void *address = fault.address;
    struct port *port = worker->current->port;
    if (wire_faulted(port, address)) {
        if (port->ops->interrupted && !worker->current->line)
            port->ops->interrupted(port);
        return;
    }
    signal(SIGBUS, SIG_DFL);
    (void)*(const volatile uint8_t *)address; /* a fault of our own: the process ends by it */
    __builtin_trap();
}

static bool is_wanted(struct worker *worker)
{
    return unlikely(atomic_load_explicit(&worker->wanted, memory_order_relaxed) != 0);
}

static unsigned turn(struct source *source)
{
    if (source->line)
        return line_poll(source->line);
    return source->port->lost ? 0 : source->port->ops->poll(source->port, source->queue);
}

/* One turn for each source that is busy now. Returns the number of frames moved. */
static unsigned pass(struct worker *worker)
{
    uint64_t now = worker->now_ns = now_ns();
    unsigned moved = 0;
    if (worker->to_tell && !worker->to_tell_ns)
        worker->to_tell_ns = now;
    struct source *last = worker->busy.previous, *source = worker->busy.next, *next;
    bool is_last = source == &worker->busy;
    for (; !is_last; source = next) {
        is_last = source == last;
        next = source->next;
        worker->current = source;
        source->blocked = false;
        unsigned got = turn(source);
        if (got)
            source->idle_ns = 0;
        else
            settle(worker, source, now);
        moved += got;
        if (is_wanted(worker))
            return moved; /* the list may be another one afterwards */
        if (next == &worker->busy)
            break;
    }
    return moved;
}

/* Tell the ports that have to be told. */
static unsigned tell(struct worker *worker)
{
    while (worker->to_tell) {
        struct source *source = worker->current = worker->to_tell;
        worker->to_tell = source->next_to_tell;
        source->to_tell = false;
        source->port->ops->tell(source->port, source->queue);
    }
    worker->to_tell_ns = 0;
    return 0;
}

static unsigned guarded(struct worker *worker, unsigned (*act)(struct worker *))
{
    if (sigsetjmp(fault.env, FAULT_MASK)) {
        recover(worker);
        return 1;
    }
    fault.armed = true;
    unsigned moved = act(worker);
    fault.armed = false;
    return moved;
}

static void tell_all(struct worker *worker)
{
    while (worker->to_tell) /* a fault ends it half-way */
        guarded(worker, tell);
}

static void let_in(struct worker *worker)
{
    tell_all(worker);
    pthread_mutex_unlock(&worker->lock);
    pthread_mutex_lock(&worker->gate);
    pthread_mutex_unlock(&worker->gate);
    pthread_mutex_lock(&worker->lock);
}

static void *run(void *argument)
{
    struct worker *worker = argument;
    struct epoll_event events[EVENTS];
    is_worker = true;
    atomic_fetch_add(&running, 1);
    pthread_mutex_lock(&worker->lock);
    for (unsigned passes = 0;; passes++) {
        int timeout = 0;
        if (worker->lines.count)
            wake_lines(worker);
        if (worker->busy.next == &worker->busy) {
            timeout = worker->to_tell ? 0 : -1; /* first another look: frames of the other direction go first */
            if (timeout)
                set_timer(worker);
        } else {
            unsigned moved = guarded(worker, pass);
            if (is_wanted(worker))
                let_in(worker);
            if (worker->to_tell_ns && worker->now_ns - worker->to_tell_ns > TELL_NS)
                tell_all(worker);
            if (moved && passes % EVENTS_EVERY)
                continue;
        }
        if (timeout)
            pthread_mutex_unlock(&worker->lock);
        int count = epoll_wait(worker->epoll, events, EVENTS, timeout);
        if (timeout) {
            if (count < 0)
                wake_idle(); /* the tick of wake.c: nothing else interrupts the sleep */
            pthread_mutex_lock(&worker->lock);
        }
        if (count <= 0)
            tell_all(worker);
        handle(worker, events, count);
    }
    return NULL;
}

void worker_lock(struct worker *worker)
{
    pthread_mutex_lock(&worker->gate);
    atomic_store_explicit(&worker->wanted, 1, memory_order_relaxed);
    pthread_mutex_lock(&worker->lock);
}

void worker_unlock(struct worker *worker)
{
    atomic_store_explicit(&worker->wanted, 0, memory_order_relaxed);
    pthread_mutex_unlock(&worker->lock);
    pthread_mutex_unlock(&worker->gate);
}

void workers_lock(void)
{
    for (unsigned i = 0; i < worker_count; i++)
        worker_lock(&workers[i]);
}

void workers_unlock(void)
{
    for (unsigned i = worker_count; i--;)
        worker_unlock(&workers[i]);
}

static int start(struct worker *worker, uint32_t spin_us)
{
    worker->busy.next = worker->busy.previous = &worker->busy;
    worker->free_slot = NO_SLOT;
    worker->spin_ns = (uint64_t)spin_us * 1000;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_mutex_init(&worker->gate, NULL);
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    worker->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    worker->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = NO_SLOT};
    if (worker->epoll < 0 || worker->wake < 0 || worker->timer < 0 ||
        epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->wake, &event) ||
        epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->timer, &event))
        return errno;
    return pthread_create(&worker->thread, NULL, run, worker);
}

int workers_start(unsigned count, uint32_t spin_us)
{
    workers = calloc(count, sizeof *workers);
    if (!workers)
        return ENOMEM;
    for (unsigned i = 0; i < count; i++) {
        int error = start(&workers[i], spin_us);
        if (error)
            return error;
        worker_count = i + 1;
    }
    /* A thread's start needs system calls that the sandbox forbids from here on. */
    while (atomic_load(&running) < count)
        sched_yield();
    return 0;
}
