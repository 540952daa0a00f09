/* The registers of x87, SSE and AVX belong to one process each, over switches, calls, faults and signals. */
#include <cpuid.h>
#include <sched.h>

#include "load.h"

enum { PROCESSES = 4, ROUNDS = 60 };

#ifdef __x86_64__
#define REGISTERS 16
#define YIELD "syscall"
#define NUMBER "24"
#else
#define REGISTERS 8
#define YIELD "int $0x80"
#define NUMBER "158"
#endif

static volatile sig_atomic_t ticks;

struct state {
    uint32_t sse[REGISTERS][8] __attribute__((aligned(32)));
    double x87[4];
    uint32_t mxcsr;
};

static int has_avx(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_AVX) || !(c & bit_OSXSAVE))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & 6) == 6;
}

#define EACH_LOW(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#ifdef __x86_64__
#define EACH(f) EACH_LOW(f) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#else
#define EACH(f) EACH_LOW(f)
#endif
#define LOAD_YMM(n) "vmovdqa 32*" #n "(%[in]), %%ymm" #n "\n"
#define STORE_YMM(n) "vmovdqa %%ymm" #n ", 32*" #n "(%[out])\n"
#define LOAD_XMM(n) "movdqa 32*" #n "(%[in]), %%xmm" #n "\n"
#define STORE_XMM(n) "movdqa %%xmm" #n ", 32*" #n "(%[out])\n"

/* Gives the CPU away and lets time pass between loading and storing, twenty times each. */
#define WAIT                                                                                              \
    "mov $20, %%esi\n1: mov $" NUMBER ", %%eax\n" YIELD "\nmov $20000, %%eax\n2: dec %%eax\njnz 2b\ndec %%esi\njnz 1b\n"
#define CARRY(load, store)                                                                                 \
    __asm__ volatile("ldmxcsr %[mxcsr]\nfninit\nfldl (%[x87])\nfldl 8(%[x87])\nfldl 16(%[x87])\nfldl 24(%[x87])\n" \
                     EACH(load) WAIT EACH(store)                                                           \
                     "fstpl 24(%[out87])\nfstpl 16(%[out87])\nfstpl 8(%[out87])\nfstpl (%[out87])\nstmxcsr %[mxout]\n" \
                     : [mxout] "=m"(out->mxcsr)                                                             \
                     : [in] "r"(in->sse), [out] "r"(out->sse), [x87] "r"(in->x87), [out87] "r"(out->x87), [mxcsr] "m"(in->mxcsr) \
                     : CLOBBERED)
#ifdef __x86_64__
#define CLOBBERED "rax", "rcx", "r11", "rsi", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
                  "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#else
#define CLOBBERED "eax", "esi", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7"
#endif

static void __attribute__((noinline)) carry(const struct state *in, struct state *out, int avx)
{
    if (avx)
        CARRY(LOAD_YMM, STORE_YMM);
    else
        CARRY(LOAD_XMM, STORE_XMM);
}

/* Computes with the registers that the interrupted code holds. */
static void disturb(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    __asm__ volatile("fninit\nfld1\nfldpi\npcmpeqd %%xmm0, %%xmm0\npxor %%xmm7, %%xmm7\nfninit" ::: "xmm0", "xmm7");
    ticks++;
}

static void hold(int number)
{
    struct state in, out;
    int avx = has_avx();
    uint64_t random = 1000 + number;
    struct itimerspec often = {{0, 3000000}, {0, 3000000}};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t timer;
    handle(SIGUSR1, disturb, SA_RESTART);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &often, NULL) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < REGISTERS; i++)
            for (int j = 0; j < 8; j++)
                in.sse[i][j] = next_random(&random) << 8 | number;
        for (int i = 0; i < 4; i++)
            in.x87[i] = next_random(&random) + number / 16.0;
        in.mxcsr = 0x1f80 | (number & 3) << 13;
        memset(&out, 0, sizeof out);
        carry(&in, &out, avx);
        for (int i = 0; i < REGISTERS; i++)
            CHECK(memcmp(in.sse[i], out.sse[i], avx ? 32 : 16) == 0);
        CHECK(memcmp(in.x87, out.x87, sizeof in.x87) == 0);
        CHECK(out.mxcsr == in.mxcsr);
    }
    CHECK(ticks > 0);
    _exit(0);
}

void vectors(void)
{
    pid_t child[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        child[i] = fork();
        CHECK(child[i] >= 0);
        if (child[i] == 0)
            hold(i);
    }
    for (int i = 0; i < PROCESSES; i++)
        CHECK(status_of(child[i]) == 0);
}
