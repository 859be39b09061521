/* A tick interrupts a call that blocks. It starts with the first call and stops when the thread is idle. See wake.h. */
#include "wake.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 20000000L /* a call that blocks ends after 20 to 40 ms */

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static _Thread_local struct {
    timer_t timer;
    bool made, ticking;
} tick;

static void on_tick(int number)
{
    (void)number;
}

void wake_init(void)
{
    struct sigaction action = {.sa_handler = on_tick}; /* no SA_RESTART: the call has to end */
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
}

static void set(long ns)
{
    struct itimerspec spec = {.it_interval = {0, ns}, .it_value = {0, ns}};
    timer_settime(tick.timer, 0, &spec, NULL);
    tick.ticking = ns != 0;
}

static void start(void)
{
    if (tick.ticking)
        return;
    if (!tick.made) {
        struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
        event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
        if (timer_create(CLOCK_MONOTONIC, &event, &tick.timer))
            return;
        tick.made = true;
    }
    set(TICK_NS);
}

void wake_idle(void)
{
    if (tick.ticking)
        set(0);
}

enum wake_kind wake_kind(int fd)
{
    struct stat info;
    if (fstat(fd, &info))
        return WAKE_EVENTFD;
    return S_ISSOCK(info.st_mode) ? WAKE_SOCKET : S_ISFIFO(info.st_mode) ? WAKE_PIPE : WAKE_EVENTFD;
}

bool wake_write(int fd, enum wake_kind kind)
{
    static const uint64_t one = 1;
    if (kind == WAKE_SOCKET) {
        (void)!send(fd, &one, sizeof one, MSG_DONTWAIT | MSG_NOSIGNAL);
        return true;
    }
    start();
    return write(fd, &one, sizeof one) >= 0 || errno != EINTR;
}

bool wake_drain(int fd, enum wake_kind kind)
{
    uint8_t bytes[512];
    ssize_t got;
    if (kind == WAKE_SOCKET) {
        got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    } else {
        start();
        got = read(fd, bytes, sizeof bytes);
    }
    return got > 0 || (got < 0 && errno == EAGAIN);
}
