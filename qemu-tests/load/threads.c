/* Threads on one address space: locks, hand-overs, and translations that must be gone everywhere when a call returns. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "load.h"

enum { THREADS = 4, ADDITIONS = 20000, TURNS = 1500, CHANGES = 400 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static long counter;
static int turn;
static _Thread_local long own;

static void *add(void *nothing)
{
    for (int i = 0; i < ADDITIONS; i++) {
        pthread_mutex_lock(&lock);
        counter++;
        pthread_mutex_unlock(&lock);
        own++;
    }
    CHECK(own == ADDITIONS);
    return nothing;
}

static void *take_turns(void *number)
{
    int mine = (int)(intptr_t)number;
    for (int i = 0; i < TURNS; i++) {
        pthread_mutex_lock(&lock);
        while (turn != mine)
            pthread_cond_wait(&turned, &lock);
        turn = 1 - mine;
        pthread_cond_signal(&turned);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void run(int count, void *(*body)(void *))
{
    pthread_t thread[THREADS];
    for (int i = 0; i < count; i++)
        CHECK(pthread_create(&thread[i], NULL, body, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < count; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
}

static void *come_and_go(void *nothing)
{
    return nothing;
}

void threads(void)
{
    run(THREADS, add);
    CHECK(counter == (long)THREADS * ADDITIONS);
    run(2, take_turns);
    for (int i = 0; i < 100; i++)
        run(THREADS, come_and_go);
}

static volatile unsigned *written;   /* A page to which others write as long as they can. */
static volatile unsigned *versioned; /* A page that is replaced by later versions. */
static atomic_uint oldest;           /* The oldest version that anybody may still see. */
static atomic_int is_over;

static void wait_a_little(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    CHECK(((uintptr_t)info->si_addr & ~(PAGE - 1)) == (uintptr_t)written);
    sched_yield();
}

static void *write_and_read(void *nothing)
{
    for (unsigned n = 0; !atomic_load(&is_over); n++) {
        written[n % 1024] += 1;
        unsigned least = atomic_load(&oldest);
        CHECK(versioned[0] >= least);
    }
    return nothing;
}

static unsigned sum_of_page(void)
{
    unsigned sum = 0;
    for (int i = 0; i < 1024; i++)
        sum += written[i];
    return sum;
}

void shootdowns(void)
{
    handle(SIGSEGV, wait_a_little, 0);
    written = (unsigned *)map_pages(1, MAP_PRIVATE);
    versioned = (unsigned *)map_pages(1, MAP_PRIVATE);
    pthread_t thread[THREADS - 1];
    for (int i = 0; i < THREADS - 1; i++)
        CHECK(pthread_create(&thread[i], NULL, write_and_read, NULL) == 0);
    for (unsigned version = 1; version <= CHANGES; version++) {
        CHECK(mprotect((void *)written, PAGE, PROT_READ) == 0);
        unsigned before = sum_of_page();
        sched_yield();
        CHECK(sum_of_page() == before);
        CHECK(mprotect((void *)written, PAGE, PROT_READ | PROT_WRITE) == 0);
        unsigned *later = (unsigned *)map_pages(1, MAP_PRIVATE);
        later[0] = version;
        CHECK(mremap(later, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)versioned) == (void *)versioned);
        atomic_store(&oldest, version);
        sched_yield();
    }
    atomic_store(&is_over, 1);
    for (int i = 0; i < THREADS - 1; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
}
