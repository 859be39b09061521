/* vnic-wire: moves frames between guests' rings and other ports, as control says over the socket at descriptor 3.
 *
 * It opens nothing by name: all that it works with comes over that socket. vnic.dataplane.wire starts it. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "channel.h"
#include "main_loop.h"
#include "memory.h"
#include "protocol.h"
#include "sandbox.h"
#include "tunnel.h"
#include "wake.h"

#define CONTROL_FD 3

static int fail(const char *what, int error)
{
    fprintf(stderr, "vnic-wire: %s: %s\n", what, strerror(error));
    return 1;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        printf("vnic-wire %u\n", PROTOCOL_VERSION);
        return 0;
    }
    if (argc != 1) {
        fprintf(stderr, "usage: vnic-wire 3<>CONTROL (vnic starts it)\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a dump that reaches a limit of files gets an error instead */
#ifdef M_ARENA_MAX
    /* glibc opens files to learn when to make and to shrink the further arenas of threads, which the sandbox forbids. */
    mallopt(M_ARENA_MAX, 1);
#endif
    wake_init();
    fault_catch();
    int error = main_loop_init();
    if (error)
        return fail("epoll", error);
    mep_may_hurry();
    uint32_t sandbox = 0;
#ifndef NO_SANDBOX /* a sanitizer needs more than it leaves */
    sandbox = sandbox_confine();
#endif
    error = channel_start(CONTROL_FD, sandbox);
    if (error)
        return fail("descriptor 3", error);
    main_loop_run();
}
