/* Sends floods of frames to sockets, counts what comes, and plays ping-pong: at a rate that Python does not reach.
 *
 * The `wire-…` measures of `vnic bench` that have sockets at the ends compile this file and call it. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DATAGRAMS 64
#define STUCK_NS 20000000u
#define CHUNK (1u << 18)
#define FORWARD_CHUNK (1u << 16)

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Wait until less than `window` bytes are under way. What has not arrived after STUCK_NS without any that has is lost,
 * and counted in `lost`. */
static void await_window(uint64_t sent, uint64_t window, _Atomic uint64_t *arrived, uint64_t *lost,
                         _Atomic uint32_t *stop)
{
    uint64_t before = 0, since = 0;
    while (!atomic_load_explicit(stop, memory_order_relaxed)) {
        uint64_t come = atomic_load_explicit(arrived, memory_order_relaxed);
        if (sent - *lost - come < window)
            return;
        if (!since || come != before) {
            before = come;
            since = now_ns();
        } else if (now_ns() - since > STUCK_NS) {
            *lost = sent - come;
        }
        sched_yield();
    }
}

/* Write `data` (whole frames with their lengths) to a blocking stream again and again until `stop`, all of it each time, with about
 * `window` bytes under way that have not `arrived` yet. Returns how many bytes were lost, or -errno. */
int64_t flood_stream(int fd, const uint8_t *data, size_t size, uint64_t window, _Atomic uint64_t *arrived,
                     _Atomic uint32_t *stop)
{
    uint64_t lost = 0;
    for (uint64_t sent = 0; !atomic_load_explicit(stop, memory_order_relaxed); sent += size) {
        await_window(sent, window, arrived, &lost, stop);
        for (size_t at = 0; at < size;) {
            ssize_t part = send(fd, data + at, size - at, MSG_NOSIGNAL);
            if (part < 0)
                return -errno;
            at += (size_t)part;
        }
    }
    return (int64_t)lost;
}

/* Send one frame to a connected datagram socket again and again until `stop`. Returns how often, or -errno. */
int64_t flood_datagrams(int fd, uint8_t *frame, size_t size, _Atomic uint32_t *stop)
{
    struct iovec iov = {frame, size};
    struct mmsghdr messages[DATAGRAMS];
    int64_t times = 0;
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < DATAGRAMS; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    while (!atomic_load_explicit(stop, memory_order_relaxed)) {
        int sent = sendmmsg(fd, messages, DATAGRAMS, MSG_NOSIGNAL);
        if (sent < 0 && errno != ENOBUFS && errno != EAGAIN)
            return -errno;
        times += sent > 0 ? sent : 0;
    }
    return times;
}

/* Read a stream until its end or `stop` (which a receive timeout of the socket lets it see); `bytes` is how many came
 * so far. */
void drain_stream(int fd, _Atomic uint64_t *bytes, _Atomic uint32_t *stop)
{
    uint8_t *buffer = malloc(CHUNK);
    while (buffer && !atomic_load_explicit(stop, memory_order_relaxed)) {
        ssize_t came = recv(fd, buffer, CHUNK, 0);
        if (came > 0)
            atomic_fetch_add_explicit(bytes, (uint64_t)came, memory_order_relaxed);
        else if (came == 0 || (errno != EAGAIN && errno != EINTR))
            break;
    }
    free(buffer);
}

/* The same for datagrams; their bytes are not looked at. */
void drain_datagrams(int fd, _Atomic uint64_t *bytes, _Atomic uint32_t *stop)
{
    static uint8_t rest[2048];
    struct iovec iov = {rest, sizeof rest};
    struct mmsghdr messages[DATAGRAMS];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < DATAGRAMS; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    while (!atomic_load_explicit(stop, memory_order_relaxed)) {
        int came = recvmmsg(fd, messages, DATAGRAMS, MSG_WAITFORONE, NULL);
        if (came < 0 && errno != EAGAIN && errno != EINTR)
            return;
        for (int i = 0; i < came; i++)
            atomic_fetch_add_explicit(bytes, messages[i].msg_len, memory_order_relaxed);
    }
}

/* The least that a program between two streams has to do: read a chunk and write it, until the end or `stop`. */
void forward_stream(int from, int to, _Atomic uint32_t *stop)
{
    uint8_t *buffer = malloc(FORWARD_CHUNK);
    while (buffer && !atomic_load_explicit(stop, memory_order_relaxed)) {
        ssize_t came = recv(from, buffer, FORWARD_CHUNK, 0), at = 0, part = 1;
        if (came <= 0)
            break;
        for (; at < came && part > 0; at += part)
            part = send(to, buffer + at, (size_t)(came - at), MSG_NOSIGNAL);
        if (part <= 0)
            break;
    }
    free(buffer);
}

/* The same between two datagram sockets, DATAGRAMS a call, to the unix socket of this path: a netdev names it each time,
 * as its far end may come and go. The sockets have timeouts. */
void forward_datagrams(int from, int to, const char *path, _Atomic uint32_t *stop)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strncpy(name.sun_path, path, sizeof name.sun_path - 1);
    static uint8_t bytes[DATAGRAMS][2048];
    struct iovec iov[DATAGRAMS];
    struct mmsghdr messages[DATAGRAMS];
    memset(messages, 0, sizeof messages);
    while (!atomic_load_explicit(stop, memory_order_relaxed)) {
        for (int i = 0; i < DATAGRAMS; i++) {
            iov[i] = (struct iovec){bytes[i], sizeof bytes[i]};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
        }
        int came = recvmmsg(from, messages, DATAGRAMS, MSG_WAITFORONE, NULL), part;
        for (int i = 0; i < came; i++) {
            iov[i].iov_len = messages[i].msg_len;
            messages[i].msg_hdr.msg_name = &name;
            messages[i].msg_hdr.msg_namelen = sizeof name;
        }
        for (int at = 0; at < came; at += part)
            if ((part = sendmmsg(to, messages + at, (unsigned)(came - at), MSG_NOSIGNAL)) <= 0)
                break; /* the far end is gone, or stopped; the near one is read on, or its sender would wait for ever */
    }
}

/* `size` bytes go to `there`, come out at `far`, are sent back from there, and come out at `there`: `count` round
 * trips, their ns in `samples`. All in one thread, as no thread of its own is to be scheduled. `pause_ns` lies between
 * two. Returns 0 or an errno. */
int ping_pong(int there, int far, uint8_t *data, size_t size, uint32_t count, uint64_t pause_ns, uint64_t *samples)
{
    const int way[] = {there, far, far, there};
    for (uint32_t i = 0; i < count; i++) {
        struct timespec pause = {0, (long)pause_ns};
        nanosleep(&pause, NULL);
        uint64_t started = now_ns();
        for (int step = 0; step < 4; step += 2) {
            if (send(way[step], data, size, MSG_NOSIGNAL) != (ssize_t)size)
                return errno ? errno : EMSGSIZE;
            if (recv(way[step + 1], data, size, MSG_WAITALL) != (ssize_t)size)
                return errno ? errno : EMSGSIZE;
        }
        samples[i] = now_ns() - started;
    }
    return 0;
}
