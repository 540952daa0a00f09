/* What every part of the load has in common: a check that ends the part, and time. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096UL

#define CHECK(claim)                                                        \
    do {                                                                    \
        if (!(claim)) {                                                     \
            printf("  %s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #claim, errno); \
            fflush(stdout);                                                 \
            _exit(1);                                                       \
        }                                                                   \
    } while (0)

/* The next number of a sequence that repeats from run to run. */
static inline uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return *state >> 33;
}

/* Anonymous memory of one's own, or shared with children. */
static inline char *map_pages(unsigned long pages, int flags)
{
    char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

/* Lets a handler have a signal. */
static inline void handle(int signal, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(signal, &action, NULL) == 0);
}

/* Waits for a child and returns its status. */
static inline int status_of(pid_t child)
{
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

/* The registers of an interrupted context that some parts change. */
#ifdef __x86_64__
#define CONTEXT_IP(context) (((ucontext_t *)(context))->uc_mcontext.gregs[REG_RIP])
#define SYSCALL_YIELD 24
#define BYTES_PER_REGISTER "8"
#else
#define CONTEXT_IP(context) (((ucontext_t *)(context))->uc_mcontext.gregs[REG_EIP])
#endif

void memory(void);
void copies(void);
void signals(void);
void timer(void);
void contexts(void);
void threads(void);
void shootdowns(void);
void tracing(void);
void breakpoints(void);
void vectors(void);
void segments(void);
void entries(void);
void processes(void);
