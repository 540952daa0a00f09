/* Segments of processes: local descriptor tables, thread-local descriptors, bases; each process has its own. */
#include <asm/ldt.h>
#include <sched.h>

#include "load.h"

enum { ENTRIES = 64, PROCESSES = 3, ROUNDS = 200 };

static uint32_t *blocks[ENTRIES];
static volatile sig_atomic_t faults;
static sigjmp_buf way_out;

static void jump_out(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    faults++;
    siglongjmp(way_out, 1);
}

/* A data segment over a block of one page. */
static void describe(int entry, void *block)
{
    struct user_desc descriptor = {
        .entry_number = entry, .base_addr = (uintptr_t)block, .limit = PAGE - 1, .seg_32bit = 1, .useable = 1};
    CHECK(syscall(SYS_modify_ldt, 1, &descriptor, sizeof descriptor) == 0);
}

static void forget(int entry)
{
    struct user_desc descriptor = {.entry_number = entry, .read_exec_only = 1, .seg_not_present = 1};
    CHECK(syscall(SYS_modify_ldt, 1, &descriptor, sizeof descriptor) == 0);
}

/* The segment register that is not the C library's. */
#ifdef __x86_64__
#define SEGMENT "%%gs"
#else
#define SEGMENT "%%fs"
#endif

/* A word of the segment that is loaded. */
static uint32_t word_here(unsigned long offset)
{
    uint32_t value;
    __asm__ volatile("mov " SEGMENT ":(%1), %0" : "=r"(value) : "r"(offset) : "memory");
    return value;
}

/* A word of the segment that a selector names. */
static uint32_t word_in(unsigned selector, unsigned long offset)
{
    __asm__ volatile("mov %0, " SEGMENT ::"r"(selector) : "memory");
    return word_here(offset);
}

static unsigned selector_of(int entry)
{
    return entry << 3 | 7;
}

static void use_table(int number)
{
    uint64_t random = number;
    handle(SIGSEGV, jump_out, SA_NODEFER);
    for (int i = 0; i < ENTRIES; i++) {
        blocks[i] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (sizeof(long) == 8 ? 0x40 : 0), -1, 0);
        CHECK(blocks[i] != MAP_FAILED);
        for (unsigned j = 0; j < PAGE / 4; j++)
            blocks[i][j] = number << 16 | i << 8 | (j & 255);
        describe(i, blocks[i]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        unsigned i = next_random(&random) % ENTRIES, j = next_random(&random) % 256;
        CHECK(word_in(selector_of(i), 4 * j) == (uint32_t)(number << 16 | i << 8 | j));
        sched_yield();
        if (round % 4 == 0) {
            unsigned k = next_random(&random) % ENTRIES;
            describe(i, blocks[k]);
            CHECK(word_in(selector_of(i), 4 * j) == (uint32_t)(number << 16 | k << 8 | j));
            describe(i, blocks[i]);
        }
    }
    /* A segment that is loaded stays while its neighbours change. */
    CHECK(word_in(selector_of(5), 0) == (uint32_t)(number << 16 | 5 << 8));
    for (int i = 0; i < ROUNDS; i++) {
        describe(6, blocks[i % ENTRIES]);
        sched_yield();
        CHECK(word_here(4 * (i % 256)) == (uint32_t)(number << 16 | 5 << 8 | (i & 255)));
    }
    /* A selector of a descriptor that is gone is refused, while it is loaded or afterwards. */
    CHECK(word_in(selector_of(3), 0) == (uint32_t)(number << 16 | 3 << 8));
    forget(3);
    for (int i = 0; i < 20; i++)
        sched_yield();
    if (sigsetjmp(way_out, 1) == 0)
        word_in(selector_of(3), 0);
    CHECK(faults == 1);
    char copy[8 * ENTRIES];
    CHECK(syscall(SYS_modify_ldt, 0, copy, sizeof copy) == sizeof copy);
    _exit(0);
}

#ifdef __i386__
static void use_thread_area(int number)
{
    uint32_t *block = (uint32_t *)map_pages(1, MAP_PRIVATE);
    struct user_desc descriptor = {
        .entry_number = -1, .base_addr = (uintptr_t)block, .limit = PAGE - 1, .seg_32bit = 1, .useable = 1};
    CHECK(syscall(SYS_set_thread_area, &descriptor) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        block[1] = number << 16 | i;
        sched_yield();
        CHECK(word_in(descriptor.entry_number << 3 | 3, 4) == (uint32_t)(number << 16 | i));
        sched_yield();
        CHECK(word_here(4) == (uint32_t)(number << 16 | i));
    }
    _exit(0);
}
#else
#include <asm/prctl.h>

static void use_thread_area(int number)
{
    uint64_t *block = (uint64_t *)map_pages(1, MAP_PRIVATE);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t value, base;
        uint64_t *at = block + i % 256;
        *at = (uint64_t)number << 32 | i;
        CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, at) == 0);
        sched_yield();
        __asm__ volatile("mov %%gs:0, %0" : "=r"(value));
        CHECK(value == ((uint64_t)number << 32 | i));
        CHECK(syscall(SYS_arch_prctl, ARCH_GET_GS, &base) == 0 && base == (uintptr_t)at);
    }
    _exit(0);
}
#endif

void segments(void)
{
    void (*const uses[])(int) = {use_table, use_thread_area};
    for (int use = 0; use < 2; use++) {
        pid_t child[PROCESSES];
        for (int i = 0; i < PROCESSES; i++) {
            child[i] = fork();
            CHECK(child[i] >= 0);
            if (child[i] == 0)
                uses[use](i + 1);
        }
        for (int i = 0; i < PROCESSES; i++)
            CHECK(status_of(child[i]) == 0);
    }
}
