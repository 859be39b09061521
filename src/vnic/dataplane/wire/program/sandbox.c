/* The sandbox: no file can be opened, no program started, no privilege gained, and few system calls are left.
 *
 * Everything that the program works on comes to it as an open descriptor, so it needs none of what is given up here.
 * Where the kernel lacks a part, the others still hold; HELLO's reply says which ones do. */
#include "sandbox.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#else
#error "vnic-wire: the numbers of this processor's system calls are not known"
#endif

/* All rights on files that landlock's first version has, and those of later ones by their numbers: older headers lack
 * the names. */
#define FILE_RIGHTS_OF_ABI_1 ((1ULL << 13) - 1)
#define FILE_RIGHT_REFER (1ULL << 13)     /* ABI 2 */
#define FILE_RIGHT_TRUNCATE (1ULL << 14)  /* ABI 3 */
#define FILE_RIGHT_IOCTL_DEV (1ULL << 15) /* ABI 5 */
#define NET_RIGHTS_OF_ABI_4 3ULL          /* bind and connect TCP */
#define SCOPES_OF_ABI_6 3ULL              /* abstract unix sockets, signals */

/* The kernel's struct landlock_ruleset_attr, with the members that older headers lack. */
struct ruleset {
    uint64_t files;
    uint64_t net;
    uint64_t scopes;
};

static int landlock(void)
{
    int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return 0;
    struct ruleset rules = {.files = FILE_RIGHTS_OF_ABI_1};
    size_t size = sizeof(rules.files);
    if (abi >= 2)
        rules.files |= FILE_RIGHT_REFER;
    if (abi >= 3)
        rules.files |= FILE_RIGHT_TRUNCATE;
    if (abi >= 5)
        rules.files |= FILE_RIGHT_IOCTL_DEV;
    if (abi >= 4) {
        rules.net = NET_RIGHTS_OF_ABI_4;
        size = offsetof(struct ruleset, scopes);
    }
    if (abi >= 6) {
        rules.scopes = SCOPES_OF_ABI_6;
        size = sizeof(rules);
    }
    /* No rule is added: nothing of what it handles is allowed. */
    int fd = (int)syscall(SYS_landlock_create_ruleset, &rules, size, 0);
    if (fd < 0)
        return 0;
    int failed = (int)syscall(SYS_landlock_restrict_self, fd, 0);
    close(fd);
    return !failed;
}

/* An empty root in a mount namespace of its own. Needs CAP_SYS_ADMIN, or user namespaces for everybody. */
static int empty_root(void)
{
    if (unshare(CLONE_NEWNS) && unshare(CLONE_NEWUSER | CLONE_NEWNS))
        return 0;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", "/tmp", "tmpfs", MS_RDONLY, "size=0,mode=0"))
        return 0;
    if (chdir("/tmp") || syscall(SYS_pivot_root, ".", "."))
        return 0;
    return !umount2(".", MNT_DETACH) && !chdir("/");
}

static void drop_capabilities(void)
{
    for (int capability = 0; prctl(PR_CAPBSET_DROP, capability) == 0; capability++)
        ;
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    syscall(SYS_capset, &header, none);
}

uint32_t sandbox_confine(void)
{
    uint32_t had = 0;
    struct rlimit nothing = {0, 0};
    setrlimit(RLIMIT_CORE, &nothing); /* a core would hold guests' memory */
    prctl(PR_SET_DUMPABLE, 0);        /* nor may others of this user read it */
    umask(0777);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        had |= SANDBOX_NO_NEW_PRIVS;
    if (landlock())
        had |= SANDBOX_LANDLOCK;
    else if (empty_root())
        had |= SANDBOX_EMPTY_ROOT;
    drop_capabilities();
    return had;
}

/* -- seccomp ------------------------------------------------------------------------------------------------------ */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOW_HALF_OF_ARG(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), RETURN(SECCOMP_RET_ALLOW)
/* Allowed unless one of `bits` is set in argument `n`. */
#define ALLOW_WITHOUT(name, n, bits)                                                                                    \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 4), LOW_HALF_OF_ARG(n),                                         \
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1), RETURN(SECCOMP_RET_KILL_PROCESS), RETURN(SECCOMP_RET_ALLOW)

/* Allowed with `value` as argument `n` only. */
#define ALLOW_WITH(name, n, value)                                                                                      \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 4), LOW_HALF_OF_ARG(n),                                         \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0), RETURN(SECCOMP_RET_KILL_PROCESS), RETURN(SECCOMP_RET_ALLOW)

uint32_t sandbox_seal(void)
{
    struct sock_filter filter[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 1, 0),
        RETURN(SECCOMP_RET_KILL_PROCESS),
        LOAD(nr),
#ifdef __x86_64__
        /* x32 calls have their own numbers and the same architecture. */
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1),
        RETURN(SECCOMP_RET_KILL_PROCESS),
#endif
        /* The loops, the most frequent first. */
        ALLOW(write), ALLOW(read), ALLOW(writev), ALLOW(readv), ALLOW(sendmmsg), ALLOW(recvmmsg), ALLOW(epoll_pwait),
#ifdef __NR_epoll_wait
        ALLOW(epoll_wait),
#endif
        ALLOW(futex), ALLOW(sendmsg), ALLOW(recvmsg), ALLOW(sendto), ALLOW(recvfrom), ALLOW(clock_gettime),
        ALLOW(sched_yield),
        /* Ports and rings come and go. */
        ALLOW(epoll_ctl), ALLOW(close), ALLOW(fstat), ALLOW(fcntl), ALLOW(munmap), ALLOW(madvise), ALLOW(brk),
        ALLOW(mremap), ALLOW(getsockopt), ALLOW(getsockname), ALLOW(timerfd_create), ALLOW(timerfd_settime),
        /* A stream that waits asks whether its far end closed; a dump takes half a record back. */
        ALLOW(ppoll), ALLOW(lseek), ALLOW(ftruncate),
#ifdef __NR_poll
        ALLOW(poll),
#endif
        /* A tick that ends a write to a guest's descriptor that blocks. */
        ALLOW(timer_create), ALLOW(timer_settime),
        ALLOW_WITHOUT(mmap, 2, PROT_EXEC), ALLOW_WITHOUT(mprotect, 2, PROT_EXEC),
        /* The C library's fstat of newer versions; with no file system left, a name would find nothing. */
        ALLOW(newfstatat), ALLOW(statx),
        /* SIGBUS of guest memory that was truncated, abort() of the C library, the end. */
        ALLOW_WITH(tgkill, 0, (uint32_t)getpid()),
        ALLOW(rt_sigreturn), ALLOW(rt_sigprocmask), ALLOW(rt_sigaction), ALLOW(restart_syscall), ALLOW(getpid),
        ALLOW(gettid), ALLOW(exit), ALLOW(exit_group), RETURN(SECCOMP_RET_KILL_PROCESS)};
    struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program))
        return 0;
    return SANDBOX_SECCOMP;
}
