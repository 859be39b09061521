/* vnic-probe: sends a numbered UDP datagram every so often, and writes which of the far end's came. `vnic rehearse`
 * puts it into the two guests between which it measures.
 *
 *     vnic-probe INTERVAL_US LEASE_S OWN_TOKEN FAR_TOKEN OWN_ADDRESS FAR_ADDRESS
 *
 * Tokens (8 bytes) and addresses (struct sockaddr_in or sockaddr_in6) are in hex. A datagram is the token, its number
 * and the time when it was sent (32 and 64 bits, big-endian). Lines on stdout, times are this guest's CLOCK_MONOTONIC
 * in microseconds:
 *
 *     r FIRST LAST FROM TO    these came one after the other; a later line with the same FIRST and FROM replaces it
 *     s SENT FAILED NOW       so many were sent, so many of them the kernel refused
 *     p NUMBER LATE           the datagram of this number was sent so late: this guest had no processor
 *     e ERRNO                 the socket cannot be had; it ends
 *
 * It ends when it got no SIGUSR1 for LEASE_S seconds: nothing goes on in a guest after `vnic rehearse` was killed.
 * There is no C library in it, so that it is small enough to be typed on a guest's console. x86-64 only. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef __x86_64__
#error "the guests of vnic are x86-64"
#endif

enum {
    TOKEN = 8,
    PAYLOAD = TOKEN + 4 + 8,
    LINES_US = 100000,
    BATCH = 256,
    RECEIVE_BUFFER = 1 << 20,
};

static long call6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define CALL(number, a, b, c, d, e) \
    call6(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static void leave(int code)
{
    for (;;)
        CALL(SYS_exit_group, code, 0, 0, 0, 0);
}

static uint64_t now_us(void)
{
    struct timespec now;
    CALL(SYS_clock_gettime, CLOCK_MONOTONIC, &now, 0, 0, 0);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* -- words of the command line -------------------------------------------------------------------------------- */

static uint64_t number(const char *text)
{
    uint64_t value = 0;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            leave(2);
        value = value * 10 + (uint64_t)(*text - '0');
    }
    return value;
}

static unsigned digit(char c)
{
    if (c >= '0' && c <= '9')
        return (unsigned)(c - '0');
    if (c >= 'a' && c <= 'f')
        return (unsigned)(c - 'a' + 10);
    leave(2);
    return 0;
}

/* The bytes of a hex text, at most `room` of them; returns how many. */
static unsigned unhex(uint8_t *to, unsigned room, const char *text)
{
    unsigned size = 0;
    for (; text[0]; text += 2) {
        if (size == room || !text[1])
            leave(2);
        to[size++] = (uint8_t)(digit(text[0]) << 4 | digit(text[1]));
    }
    return size;
}

/* -- lines ------------------------------------------------------------------------------------------------------ */

static char line[128];
static unsigned line_size;

static void put(uint64_t value)
{
    char digits[20];
    unsigned size = 0;
    do
        digits[size++] = (char)('0' + value % 10);
    while (value /= 10);
    line[line_size++] = ' ';
    while (size)
        line[line_size++] = digits[--size];
}

static void end_line(void)
{
    line[line_size++] = '\n';
    /* A full disk must not go unseen: the log would say that nothing came. */
    if (CALL(SYS_write, 1, line, line_size, 0, 0) != (long)line_size)
        leave(1);
    line_size = 0;
}

static void begin_line(char kind)
{
    line[line_size++] = kind;
}

/* -- datagrams -------------------------------------------------------------------------------------------------- */

static uint8_t own[PAYLOAD], far_token[TOKEN];
static uint64_t sent, failed;

static struct run {
    int open, told;
    uint32_t first, last;
    uint64_t from, to;
} run;

static void put_big(uint8_t *to, unsigned bytes, uint64_t value)
{
    while (bytes--) {
        to[bytes] = (uint8_t)value;
        value >>= 8;
    }
}

static void tell_run(void)
{
    if (!run.open || run.told)
        return;
    begin_line('r');
    put(run.first);
    put(run.last);
    put(run.from);
    put(run.to);
    end_line();
    run.told = 1;
}

static void came(uint32_t seq, uint64_t now)
{
    if (!run.open || seq != run.last + 1) {
        tell_run();
        run.open = 1;
        run.first = seq;
        run.from = now;
    }
    run.last = seq;
    run.to = now;
    run.told = 0;
}

static void receive(int socket)
{
    for (unsigned i = 0; i < BATCH; i++) {
        uint8_t data[PAYLOAD + 1];
        long size = CALL(SYS_recvfrom, socket, data, sizeof data, 0, 0);
        if (size < 0)
            return;
        unsigned same = 0;
        while (size == PAYLOAD && same < TOKEN && data[same] == far_token[same])
            same++;
        if (same == TOKEN)
            came((uint32_t)data[8] << 24 | (uint32_t)data[9] << 16 | (uint32_t)data[10] << 8 | data[11], now_us());
    }
}

static void send_one(int socket, const void *to, unsigned to_size, uint64_t now)
{
    put_big(own + TOKEN, 4, sent);
    put_big(own + TOKEN + 4, 8, now);
    sent++;
    if (call6(SYS_sendto, socket, (long)own, PAYLOAD, 0, (long)to, to_size) != PAYLOAD)
        failed++;
}

static void refuse(long error)
{
    begin_line('e');
    put((uint64_t)-error);
    end_line();
    leave(1);
}

static int open_socket(const struct sockaddr *own_address, unsigned size)
{
    int room = RECEIVE_BUFFER, yes = 1;
    long fd = CALL(SYS_socket, own_address->sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, 0, 0);
    if (fd < 0)
        refuse(fd);
    CALL(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    /* The probe of a rehearsal that was killed has the port until it is gone altogether. */
    CALL(SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    long refused = CALL(SYS_bind, fd, own_address, size, 0, 0);
    if (refused)
        refuse(refused);
    return (int)fd;
}

static int open_signals(void)
{
    uint64_t mask = 1ull << (SIGUSR1 - 1);
    CALL(SYS_rt_sigprocmask, SIG_BLOCK, &mask, 0, sizeof mask, 0);
    return (int)CALL(SYS_signalfd4, -1, &mask, sizeof mask, O_NONBLOCK | O_CLOEXEC, 0);
}

__attribute__((used)) void begin(long *stack)
{
    const char *const *words = (const char *const *)(stack + 1);
    uint8_t own_address[sizeof(struct sockaddr_in6)], far_address[sizeof(struct sockaddr_in6)];
    if (stack[0] != 7)
        leave(2);
    uint64_t interval = number(words[1]), lease = number(words[2]) * 1000000;
    if (!interval || unhex(own, TOKEN, words[3]) != TOKEN || unhex(far_token, TOKEN, words[4]) != TOKEN)
        leave(2);
    unsigned own_size = unhex(own_address, sizeof own_address, words[5]);
    unsigned far_size = unhex(far_address, sizeof far_address, words[6]);
    int socket = open_socket((const struct sockaddr *)own_address, own_size);
    int signals = open_signals();

    uint64_t now = now_us(), next = now, lines = now, end = now + lease;
    while (now < end) {
        uint64_t left = next > now ? next - now : 0;
        struct timespec wait = {(time_t)(left / 1000000), (long)(left % 1000000 * 1000)};
        struct pollfd polled[] = {{socket, POLLIN, 0}, {signals, POLLIN, 0}};
        CALL(SYS_ppoll, polled, 2, &wait, 0, 0);
        receive(socket);
        now = now_us();
        if (now >= next) {
            uint64_t late = now - next;
            if (late > 10 * interval) {
                begin_line('p');
                put(sent);
                put(late);
                end_line();
            }
            send_one(socket, far_address, far_size, now);
            next = late > interval ? now + interval : next + interval; /* what was missed is not sent at once */
        }
        if (now >= lines) {
            tell_run();
            begin_line('s');
            put(sent);
            put(failed);
            put(now);
            end_line();
            lines = now + LINES_US;
        }
        uint8_t signal[128];
        if (polled[1].revents && CALL(SYS_read, signals, signal, sizeof signal, 0, 0) > 0)
            end = now + lease;
    }
    leave(0);
}

__asm__(".globl _start\n_start:\n    xor %ebp, %ebp\n    mov %rsp, %rdi\n    and $-16, %rsp\n    call begin\n");
