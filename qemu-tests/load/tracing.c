/* One process under another's eyes: single steps, and breakpoints in the debug registers. */
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>

#include "load.h"

#ifdef __x86_64__
#define IP(registers) ((registers).rip)
#define COUNT(registers) ((registers).rcx)
#else
#define IP(registers) ((unsigned long)(registers).eip)
#define COUNT(registers) ((unsigned long)(registers).ecx)
#endif

enum { LOOPS = 50, STEPS = 2000, HITS = 200 };

extern char loop_start[], loop_end[], call_start[], call_end[];
static volatile long watched;
static volatile sig_atomic_t traps;

/* Two instructions a round, in a place with a name. */
static void __attribute__((noinline)) loop(long rounds)
{
    __asm__ volatile("mov %0, %%ecx\n"
                     ".global loop_start, loop_end\nloop_start:\n"
                     "dec %%ecx\n"
                     "jnz loop_start\n"
                     "loop_end: nop\n" ::"r"((int)rounds)
                     : "ecx", "cc");
}

static void __attribute__((noinline, noclone)) touch(long value)
{
    __asm__ volatile("" ::: "memory");
    watched = value;
}

static pid_t start(void (*body)(void))
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        raise(SIGSTOP);
        body();
        _exit(9);
    }
    CHECK(WIFSTOPPED(status_of(child)));
    return child;
}

static void loop_long(void)
{
    loop(STEPS);
}

static void touch_often(void)
{
    for (long i = 1; i <= HITS; i++)
        touch(i);
}

static void count_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    CHECK(info->si_code == TRAP_TRACE);
    traps++;
}

/* A process that steps itself by the trap flag. */
static void step_oneself(void)
{
    handle(SIGTRAP, count_trap, 0);
    for (int i = 0; i < LOOPS; i++) {
        sig_atomic_t before = traps;
#ifdef __x86_64__
        __asm__ volatile("sub $128, %%rsp; pushfq; orl $0x100, (%%rsp); popfq; nop; nop; nop; pushfq; andl $~0x100, (%%rsp); popfq;"
                         "add $128, %%rsp" ::: "cc", "memory");
#else
        __asm__ volatile("pushf; orl $0x100, (%%esp); popf; nop; nop; nop; pushf; andl $~0x100, (%%esp); popf" ::
                             : "cc", "memory");
#endif
        CHECK(traps == before + 6);
    }
}

void tracing(void)
{
    struct user_regs_struct registers;
    pid_t child = start(loop_long);
    long seen = 0, last = -1;
    for (int steps = 0; seen < STEPS / 2; steps++) {
        CHECK(steps < 40 * STEPS);
        CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
        int status = status_of(child);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
        CHECK(ptrace(PTRACE_GETREGS, child, NULL, &registers) == 0);
        if (IP(registers) == (unsigned long)loop_start) {
            long count = (int)COUNT(registers);
            CHECK(last < 0 || count == last - 1);
            last = count, seen++;
        }
    }
    CHECK(ptrace(PTRACE_KILL, child, NULL, NULL) == 0);
    CHECK(WIFSIGNALED(status_of(child)));
    step_oneself();
}

static void set_debug_register(pid_t child, int number, unsigned long value)
{
    long at = offsetof(struct user, u_debugreg) + number * sizeof(long);
    CHECK(ptrace(PTRACE_POKEUSER, child, (void *)at, (void *)value) == 0);
}

/* Stops at each entry of a function and after each write to a variable, by debug registers 0 and 1. */
void breakpoints(void)
{
    struct user_regs_struct registers;
    pid_t child = start(touch_often), other = start(touch_often);
    set_debug_register(child, 0, (unsigned long)touch);
    set_debug_register(child, 1, (unsigned long)&watched);
    set_debug_register(child, 7, 1 | 1 << 2 | 1UL << 20 | (sizeof(long) == 8 ? 2UL : 3UL) << 22);
    for (long i = 1; i <= HITS; i++) {
        for (int reg = 0; reg < 2; reg++) {
            CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
            int status = status_of(child);
            CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
            long at = offsetof(struct user, u_debugreg) + 6 * sizeof(long);
            CHECK((ptrace(PTRACE_PEEKUSER, child, (void *)at, NULL) & 15) == 1 << reg);
            set_debug_register(child, 6, 0);
            CHECK(ptrace(PTRACE_GETREGS, child, NULL, &registers) == 0);
            CHECK((IP(registers) == (unsigned long)touch) == (reg == 0));
            CHECK(ptrace(PTRACE_PEEKDATA, child, (void *)&watched, NULL) == (reg == 0 ? i - 1 : i));
        }
    }
    CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
    CHECK(status_of(child) == 9 << 8);
    CHECK(ptrace(PTRACE_CONT, other, NULL, NULL) == 0);
    CHECK(status_of(other) == 9 << 8);
}
