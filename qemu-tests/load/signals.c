/* Signals that the CPU's exceptions become, signals within signals, on another stack, by a timer, and contexts to which no
   CPU returns. */
#include <sys/time.h>

#include "load.h"

static volatile sig_atomic_t faults, inner, outer, ticks;
static volatile int expected_signal, expected_code, skipped_bytes;
static char *page;
static sigjmp_buf way_out;

/* Makes the page writable that was written to. */
static void open_page(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    CHECK((char *)info->si_addr >= page && (char *)info->si_addr < page + PAGE);
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
    faults++;
}

/* Goes on behind the instruction that faulted. */
static void skip(int signal, siginfo_t *info, void *context)
{
    CHECK(signal == expected_signal && info->si_code == expected_code);
    CONTEXT_IP(context) += skipped_bytes;
    faults++;
}

#define FAULTS(signal, code, length, instruction)                              \
    do {                                                                       \
        sig_atomic_t before = faults;                                          \
        expected_signal = signal, expected_code = code, skipped_bytes = length; \
        __asm__ volatile(instruction ::: "eax", "ecx", "edx", "cc", "memory"); \
        CHECK(faults == before + 1);                                           \
    } while (0)

static void exceptions(void)
{
    int all[] = {SIGFPE, SIGTRAP, SIGILL, SIGSEGV};
    for (int i = 0; i < 4; i++)
        handle(all[i], skip, 0);
    for (int i = 0; i < 200; i++) {
        FAULTS(SIGFPE, FPE_INTDIV, 2, "xor %%eax, %%eax; xor %%edx, %%edx; xor %%ecx, %%ecx; idiv %%ecx");
        FAULTS(SIGTRAP, SI_KERNEL, 0, "int3");
        FAULTS(SIGILL, ILL_ILLOPN, 2, "ud2");
        FAULTS(SIGSEGV, SI_KERNEL, 1, "hlt");
        FAULTS(SIGSEGV, SI_KERNEL, 1, "cli");
        FAULTS(SIGSEGV, SI_KERNEL, 2, "int $0x70");
        FAULTS(SIGSEGV, SI_KERNEL, 1, "mov $0x70, %%edx; in %%dx, %%al");
        FAULTS(SIGSEGV, SI_KERNEL, 2, "mov $0x10, %%ecx; rdmsr");
#ifdef __x86_64__
        FAULTS(SIGSEGV, SI_KERNEL, 3, "movabs $0x8000000000000000, %%rax; mov (%%rax), %%rcx");
#else
        FAULTS(SIGSEGV, SI_KERNEL, 0, "mov $0x7fffffff, %%eax; add $1, %%eax; into");
#endif
    }
}

static void on_user2(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    CHECK(mprotect(page, PAGE, PROT_READ) == 0);
    page[5] = 1;
    inner++;
}

static void on_user1(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    sig_atomic_t before = inner;
    CHECK(raise(SIGUSR2) == 0 && inner == before + 1);
    outer++;
}

static void overflowed(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    siglongjmp(way_out, 1);
}

static int __attribute__((noinline)) without_end(volatile char *last)
{
    volatile char block[1024];
    block[0] = *last;
    return without_end(block) + block[1];
}

static void alternate_stack(void)
{
    stack_t stack = {.ss_sp = map_pages(16, MAP_PRIVATE), .ss_size = 16 * PAGE};
    CHECK(sigaltstack(&stack, NULL) == 0);
    handle(SIGSEGV, overflowed, SA_ONSTACK);
    for (volatile int i = 0; i < 4; i++) {
        char start = 0;
        if (sigsetjmp(way_out, 1) == 0)
            without_end(&start);
    }
}

void signals(void)
{
    page = map_pages(1, MAP_PRIVATE);
    handle(SIGSEGV, open_page, SA_NODEFER);
    for (int i = 1; i <= 500; i++) {
        CHECK(mprotect(page, PAGE, PROT_READ) == 0);
        page[i] = (char)i;
        CHECK(faults == i && page[i] == (char)i);
    }
    handle(SIGUSR1, on_user1, 0);
    handle(SIGUSR2, on_user2, 0);
    for (int i = 0; i < 300; i++)
        CHECK(raise(SIGUSR1) == 0);
    CHECK(inner == 300 && outer == 300);
    alternate_stack();
    exceptions();
}

static void tick(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    ticks++;
}

/* A timer interrupts a computation whose result must not change. */
void timer(void)
{
    struct itimerval often = {{0, 4000}, {0, 4000}};
    handle(SIGALRM, tick, SA_RESTART);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    uint64_t first = 0;
    for (int round = 0; round < 20000 && ticks < 80; round++) {
        uint64_t state = 1, sum = 0;
        for (int i = 0; i < 200000; i++)
            sum = sum * 31 + next_random(&state);
        CHECK(round == 0 || sum == first);
        first = sum;
    }
    CHECK(ticks >= 80);
}

static int bad_part;

/* Leaves in the interrupted context what the CPU will not take. */
static void spoil(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
#ifdef __x86_64__
    if (bad_part == 0)
        registers[REG_CSGSFS] = (registers[REG_CSGSFS] & ~0xffffL) | 0xfff7;
    if (bad_part == 1)
        registers[REG_RIP] = 0x4000000000000000L;
    if (bad_part == 2)
        registers[REG_RIP] = -4096;
    if (bad_part == 3)
        registers[REG_CSGSFS] = (registers[REG_CSGSFS] & ~0xffffL) | 3;
#else
    if (bad_part == 0)
        registers[REG_CS] = 0xfff7;
    if (bad_part == 1)
        registers[REG_SS] = 0xfff7;
    if (bad_part == 2)
        registers[REG_DS] = 0xfff7;
    if (bad_part == 3)
        registers[REG_CS] = 3;
#endif
}

static void end_well(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    _exit(7);
}

void contexts(void)
{
    for (int round = 0; round < 20; round++) {
        for (bad_part = 0; bad_part < 4; bad_part++) {
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) {
                alarm(5);
                stack_t stack = {.ss_sp = map_pages(16, MAP_PRIVATE), .ss_size = 16 * PAGE};
                CHECK(sigaltstack(&stack, NULL) == 0);
                handle(SIGUSR1, spoil, 0);
                if (round % 2)
                    handle(SIGSEGV, end_well, SA_ONSTACK);
                raise(SIGUSR1);
                _exit(3);
            }
            int status = status_of(child);
            int died = WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
            int caught = WIFEXITED(status) && WEXITSTATUS(status) == 7;
            int unharmed = sizeof(long) == 4 && bad_part == 2 && WIFEXITED(status) && WEXITSTATUS(status) == 3;
            if (!(died || caught || unharmed))
                printf("  context %d: status %x\n", bad_part, status);
            CHECK(died || caught || unharmed);
        }
    }
}
