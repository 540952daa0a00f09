/* The ways into the kernel: INT 0x80 and what the kernel's own page offers to 32-bit programs (SYSCALL or SYSENTER). */
#include <sys/auxv.h>

#include "load.h"

enum { CALLS = 3000 };

static volatile sig_atomic_t ticks;

static void tick(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    ticks++;
}

/* A system call of 32-bit programs with three arguments, by INT 0x80. */
static long by_interrupt(long number, long a, long b, long c)
{
    __asm__ volatile("int $0x80" : "+a"(number) : "b"(a), "c"(b), "d"(c) : "memory");
    return (int)number;
}

#ifdef __i386__
static void *kernels_page_entry;

/* The same with six, through the kernel's page. */
static long by_page(long number, const long *a)
{
    __asm__ volatile("push %%ebp\npush %[entry]\nmov 20(%[list]), %%ebp\nmov 16(%[list]), %%edi\n"
                     "mov 12(%[list]), %%esi\nmov 8(%[list]), %%edx\nmov (%[list]), %%ebx\nmov 4(%[list]), %%ecx\n"
                     "call *(%%esp)\nadd $4, %%esp\npop %%ebp\n"
                     : "+a"(number)
                     : [list] "c"(a), [entry] "d"(kernels_page_entry)
                     : "ebx", "esi", "edi", "memory", "cc");
    return number;
}

static void through_page(void)
{
    kernels_page_entry = (void *)getauxval(AT_SYSINFO);
    CHECK(kernels_page_entry != NULL);
    long none[6] = {0};
    for (int i = 0; i < CALLS; i++)
        CHECK(by_page(SYS_getpid, none) == getpid());
    for (int i = 0; i < 200; i++) {
        long map[6] = {0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0};
        char *at = (char *)by_page(SYS_mmap2, map);
        CHECK(at != MAP_FAILED && (long)at != -EINVAL && (long)at != -EBADF);
        *at = 1;
        long unmap[6] = {(long)at, PAGE};
        CHECK(by_page(SYS_munmap, unmap) == 0);
    }
    /* Interrupted by a signal, and made again by the kernel where the page says. */
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        pid_t parent = getppid();
        for (int i = 0; i < 20; i++) {
            usleep(3000);
            kill(parent, SIGUSR1);
        }
        usleep(3000);
        CHECK(write(ends[1], "x", 1) == 1);
        _exit(0);
    }
    char byte = 0;
    long wait[6] = {ends[0], (long)&byte, 1};
    CHECK(by_page(SYS_read, wait) == 1 && byte == 'x' && ticks > 0);
    CHECK(status_of(child) == 0);
}
#endif

void entries(void)
{
    handle(SIGUSR1, tick, SA_RESTART);
    for (int i = 0; i < CALLS; i++)
        CHECK(by_interrupt(20, 0, 0, 0) == getpid()); /* getpid of 32-bit programs */
    CHECK(by_interrupt(6, 999, 0, 0) == -EBADF);       /* close */
#ifdef __i386__
    through_page();
#endif
}
