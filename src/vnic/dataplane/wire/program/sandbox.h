/* What vnic-wire gives up before it reads a byte from anybody else. main.c calls the two functions, in this order. */
#ifndef SANDBOX_H
#define SANDBOX_H

#include <stdint.h>

/* What the kernel granted; HELLO's reply tells control. */
enum sandbox {
    SANDBOX_NO_NEW_PRIVS = 1,
    SANDBOX_LANDLOCK = 2,
    SANDBOX_EMPTY_ROOT = 4, /* where there is no landlock */
    SANDBOX_SECCOMP = 8,
};

/* Give up files, capabilities and core dumps. To be called while the process has one thread. Returns what was had. */
uint32_t sandbox_confine(void);

/* Allow only the system calls of the loops, for all threads. To be called after the last thread was started. Returns
 * SANDBOX_SECCOMP, or 0 where the kernel has no seccomp filters. */
uint32_t sandbox_seal(void);

#endif
