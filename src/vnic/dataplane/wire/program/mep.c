/* Maintenance end points: the thread that sends CCMs in time and judges those of the peers (802.1Q-2018 §20). See tunnel.h.
 *
 * A peer is lost when no CCM has come for 3.5 of its intervals. That time may have passed because this process had no
 * processor, and CCMs wait at the socket meanwhile. So the peer is not lost before the socket was found empty after that
 * time; or, under a flood, before as many datagrams were read as could have waited there. */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tunnel.h"

#define NEVER UINT64_MAX
#define PRIORITY 1 /* the lowest of those that come before all that have none */
#define SLICE_NS 100000u /* the kernel's least */
#define LOOK_AGAIN_NS 500000u /* while the socket is not empty; and where it had no room for a CCM */

static pthread_mutex_t list_lock; /* before any mep's lock */
static pthread_cond_t list_changed;
static struct mep *meps;
static bool ending; /* no other CCM may follow the last ones */
static atomic_bool running;

static struct tunnel_port *tunnel_of(struct mep *mep)
{
    return (struct tunnel_port *)((char *)mep - offsetof(struct tunnel_port, mep));
}

/* -- one end; its lock is held ------------------------------------------------------------------------------------ */

static bool hears(const struct mep *mep)
{
    return mep->state.heard == CCM_HEARD || (mep->mode == CCM_AUTO && mep->state.heard == CCM_NEVER);
}

static void report(struct mep *mep, uint64_t now)
{
    const struct tunnel_state *state = &mep->state;
    uint64_t silent_us = state->heard_ns && now > state->heard_ns ? (now - state->heard_ns) / 1000 : 0;
    event_ccm_state(&tunnel_of(mep)->port, state, silent_us < UINT32_MAX ? (uint32_t)silent_us : UINT32_MAX);
}

static void is_refused(struct mep *mep)
{
    if (mep->state.refused || mep->mode == CCM_OFF)
        return;
    mep->state.refused = 1;
    report(mep, tunnel_now_ns());
}

static void send_ccm(struct mep *mep, uint64_t now)
{
    struct ccm ccm = {
        .sequence = mep->state.sequence,
        .interval_us = mep->interval_us,
        .mep = mep->id,
        .rdi = !hears(mep),
        .status = mep->status,
        .level = mep->level,
    };
    struct tunnel_port *tunnel = tunnel_of(mep);
    uint8_t frame[CCM_FRAME];
    memcpy(ccm.maid, mep->maid, sizeof ccm.maid);
    ccm_write(frame, mep->mac, &ccm);
    int error = tunnel_send(tunnel, frame, sizeof frame);
    if (error == ECONNREFUSED) {
        /* It tells of an earlier datagram, and this one was not sent. */
        is_refused(mep);
        error = tunnel_send(tunnel, frame, sizeof frame);
    }
    if (error == EAGAIN) {
        mep->due_ns = now + LOOK_AGAIN_NS;
        return;
    }
    mep->due_ns = (now / mep->interval_ns + 1) * mep->interval_ns;
    if (!error) {
        mep->state.sequence++;
        tunnel->stats.ccm_sent++;
    }
}

static bool is_lost(struct mep *mep)
{
    struct tunnel_socket *socket = tunnel_of(mep)->socket;
    unsigned long read = atomic_load(&socket->read);
    if (!mep->suspected) {
        mep->suspected = true;
        mep->suspected_at = read;
        mep->suspected_until = tunnel_socket_backlog(socket);
    }
    return tunnel_socket_is_quiet(socket) || read - mep->suspected_at > mep->suspected_until;
}

/* Returns when to look again. */
static uint64_t judge(struct mep *mep, uint64_t now)
{
    if (mep->state.heard != CCM_HEARD)
        return NEVER;
    uint64_t interval_ns = ccm_interval_ns(mep->state.remote_interval_us);
    uint64_t deadline = mep->state.heard_ns + 3 * interval_ns + interval_ns / 2;
    if (now < deadline) {
        mep->suspected = false;
        return deadline;
    }
    if (!is_lost(mep))
        return now + LOOK_AGAIN_NS;
    mep->suspected = false;
    mep->state.heard = CCM_LOST;
    mep->state.rdi = 0;
    mep->state.remote_status = 0;
    report(mep, now);
    send_ccm(mep, now); /* with RDI */
    return NEVER;
}

static uint64_t turn(struct mep *mep, uint64_t now)
{
    pthread_mutex_lock(&mep->lock);
    uint64_t next = judge(mep, now);
    if (now >= mep->due_ns)
        send_ccm(mep, now);
    if (mep->due_ns < next)
        next = mep->due_ns;
    pthread_mutex_unlock(&mep->lock);
    return next;
}

/* Whether a CCM of this number is one after the last: serial numbers (RFC 1982), and peers that do not count send 0. A
 * lost peer may have been started anew with any number. */
static bool is_next(const struct mep *mep, uint32_t sequence)
{
    const struct tunnel_state *state = &mep->state;
    if (state->heard != CCM_HEARD || (!sequence && !state->remote_sequence))
        return true;
    uint32_t ahead = sequence - state->remote_sequence;
    return ahead && ahead < 1u << 31;
}

/* Returns whether the thread has to look at once, since its deadlines are other ones now. */
static bool accept_ccm(struct mep *mep, const struct ccm *ccm)
{
    struct tunnel_state *state = &mep->state, before = *state;
    bool did_hear = hears(mep);
    uint64_t now = tunnel_now_ns();
    state->heard = CCM_HEARD;
    state->heard_ns = now;
    state->remote_sequence = ccm->sequence;
    state->remote_interval_us = ccm->interval_us;
    state->remote_mep = ccm->mep;
    state->remote_status = ccm->status;
    state->rdi = ccm->rdi;
    state->refused = 0;
    tunnel_of(mep)->stats.ccm_received++;
    if (before.heard != state->heard || before.remote_status != state->remote_status || before.rdi != state->rdi ||
        before.refused)
        report(mep, now);
    if (!did_hear)
        send_ccm(mep, now); /* without RDI */
    return before.heard != CCM_HEARD || before.remote_interval_us != state->remote_interval_us;
}

/* -- the worker's side -------------------------------------------------------------------------------------------- */

void mep_receive(struct tunnel_port *tunnel, const uint8_t *frame, size_t len)
{
    struct mep *mep = &tunnel->mep;
    struct tunnel_stats *stats = &tunnel->stats;
    struct ccm ccm;
    int level = cfm_level(frame, len);
    bool wake = false;
    pthread_mutex_lock(&mep->lock);
    if (level < 0)
        tunnel_trouble(tunnel, &stats->bad_ccm);
    else if (!cfm_is_ccm(frame, len))
        tunnel->port.stats.filtered++;
    else if (level != mep->level)
        tunnel_trouble(tunnel, &stats->wrong_level);
    else if (!ccm_read(frame, len, &ccm))
        tunnel_trouble(tunnel, &stats->bad_ccm);
    else if (memcmp(ccm.maid, mep->maid, sizeof mep->maid))
        tunnel_trouble(tunnel, &stats->wrong_maid);
    else if (ccm.mep == mep->id || !ccm.mep || ccm.mep > CCM_MEP_MAX)
        tunnel_trouble(tunnel, &stats->wrong_mep);
    else if (!is_next(mep, ccm.sequence))
        tunnel_trouble(tunnel, &stats->old_sequence);
    else
        wake = accept_ccm(mep, &ccm);
    pthread_mutex_unlock(&mep->lock);
    if (wake) {
        pthread_mutex_lock(&list_lock);
        pthread_cond_signal(&list_changed);
        pthread_mutex_unlock(&list_lock);
    }
}

void mep_refused(struct tunnel_port *tunnel)
{
    pthread_mutex_lock(&tunnel->mep.lock);
    is_refused(&tunnel->mep);
    pthread_mutex_unlock(&tunnel->mep.lock);
}

/* -- the main thread's side --------------------------------------------------------------------------------------- */

void mep_add(struct tunnel_port *tunnel)
{
    struct mep *mep = &tunnel->mep;
    if (mep->mode == CCM_OFF)
        return;
    pthread_mutex_lock(&list_lock);
    mep->next = meps;
    mep->link = &meps;
    if (meps)
        meps->link = &mep->next;
    meps = mep;
    pthread_cond_signal(&list_changed);
    pthread_mutex_unlock(&list_lock);
}

void mep_remove(struct tunnel_port *tunnel)
{
    struct mep *mep = &tunnel->mep;
    if (mep->mode == CCM_OFF)
        return;
    pthread_mutex_lock(&list_lock);
    *mep->link = mep->next;
    if (mep->next)
        mep->next->link = mep->link;
    pthread_mutex_unlock(&list_lock);
}

/* Its lock and the list's are held. */
static void set_status(struct mep *mep, uint8_t status)
{
    bool is_other = mep->status != status;
    mep->status = status;
    if (is_other && mep->mode != CCM_OFF)
        send_ccm(mep, tunnel_now_ns());
}

void mep_set_status(struct tunnel_port *tunnel, uint8_t status)
{
    struct mep *mep = &tunnel->mep;
    pthread_mutex_lock(&list_lock);
    pthread_mutex_lock(&mep->lock);
    set_status(mep, status);
    pthread_mutex_unlock(&mep->lock);
    pthread_cond_signal(&list_changed); /* where the socket had no room, the CCM is due earlier */
    pthread_mutex_unlock(&list_lock);
}

void mep_goodbye(void)
{
    pthread_mutex_lock(&list_lock);
    ending = true;
    for (struct mep *mep = meps; mep; mep = mep->next) {
        pthread_mutex_lock(&mep->lock);
        set_status(mep, INTERFACE_NOT_PRESENT);
        pthread_mutex_unlock(&mep->lock);
    }
    pthread_mutex_unlock(&list_lock);
}

/* -- the thread --------------------------------------------------------------------------------------------------- */

/* The kernel's struct sched_attr, which older headers lack. */
struct scheduling {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* A CCM that is late makes a false alarm at the peer, so this thread comes before those that move frames: it needs some
 * microseconds for each CCM. Without the right to that, Linux 6.12 and later run a thread of short slices sooner. */
static void hurry(void)
{
    struct sched_param first = {.sched_priority = PRIORITY};
    int policy;
    if (!pthread_getschedparam(pthread_self(), &policy, &first) && policy == SCHED_FIFO)
        return; /* it has it from mep_may_hurry */
    first.sched_priority = PRIORITY;
    if (!pthread_setschedparam(pthread_self(), SCHED_FIFO, &first))
        return;
    struct scheduling slices = {.size = sizeof slices, .policy = SCHED_OTHER, .runtime = SLICE_NS};
    syscall(SYS_sched_setattr, 0, &slices, 0);
}

void mep_may_hurry(void)
{
    struct sched_param first = {.sched_priority = PRIORITY};
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &first);
}

static void *run(void *argument)
{
    (void)argument;
    hurry();
    atomic_store(&running, true);
    pthread_mutex_lock(&list_lock);
    for (;;) {
        uint64_t now = tunnel_now_ns(), next = NEVER;
        for (struct mep *mep = ending ? NULL : meps; mep; mep = mep->next) {
            uint64_t wanted = turn(mep, now);
            if (wanted < next)
                next = wanted;
        }
        if (next == NEVER) {
            pthread_cond_wait(&list_changed, &list_lock);
        } else {
            struct timespec until = {(time_t)(next / 1000000000), (long)(next % 1000000000)};
            pthread_cond_timedwait(&list_changed, &list_lock, &until);
        }
    }
    return NULL;
}

void mep_lock_init(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(lock, &attributes);
}

int mep_start(void)
{
    pthread_condattr_t attributes;
    pthread_t thread;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&list_changed, &attributes);
    mep_lock_init(&list_lock);
    int error = pthread_create(&thread, NULL, run, NULL);
    struct sched_param none = {0};
    pthread_setschedparam(pthread_self(), SCHED_OTHER, &none);
    while (!error && !atomic_load(&running)) /* its start needs system calls that the sandbox forbids */
        sched_yield();
    return error;
}
