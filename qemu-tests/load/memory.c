/* Mappings made, changed, moved and given back at random beside a list of what each page must hold; copies on write. */
#include "load.h"

#define PAGES 192
#define STEPS 6000

enum access { NONE, READ, WRITE };

static char *area;
static uint32_t held[PAGES]; /* The word that fills the page; 0 fills a fresh one. */
static enum access access_to[PAGES];
static sigjmp_buf way_out;

static void jump_out(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info, (void)context;
    siglongjmp(way_out, 1);
}

/* Whether the page's first word can be read (or written with what it holds). */
static int can(int page, int write)
{
    volatile uint32_t *word = (uint32_t *)(area + page * PAGE);
    if (sigsetjmp(way_out, 1))
        return 0;
    uint32_t value = *word;
    if (write)
        *word = value;
    return 1;
}

static void verify(int page)
{
    CHECK(can(page, 0) == (access_to[page] >= READ));
    CHECK(can(page, 1) == (access_to[page] == WRITE));
    if (access_to[page] == NONE)
        return;
    uint32_t *words = (uint32_t *)(area + page * PAGE);
    for (unsigned long i = 0; i < PAGE / 4; i += 73)
        CHECK(words[i] == held[page]);
    CHECK(words[PAGE / 4 - 1] == held[page]);
}

static void fill(int page, uint32_t value)
{
    uint32_t *words = (uint32_t *)(area + page * PAGE);
    for (unsigned long i = 0; i < PAGE / 4; i++)
        words[i] = value;
    held[page] = value;
}

static void move_pages(int from, int to, int count)
{
    if (from < to + count && to < from + count)
        return;
    for (int i = 0; i < count; i++)
        if (access_to[from + i] != access_to[from] || access_to[from] == NONE)
            return;
    /* Only one mapping can move at once: neighbours made by several calls may be several. */
    if (mremap(area + from * PAGE, count * PAGE, count * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, area + to * PAGE) == MAP_FAILED) {
        CHECK(errno == EFAULT);
        for (int i = 0; i < count; i++)
            if (!can(to + i, 0))
                access_to[to + i] = NONE;
        return;
    }
    for (int i = 0; i < count; i++) {
        held[to + i] = held[from + i];
        access_to[to + i] = access_to[from + i];
        access_to[from + i] = NONE;
    }
}

static void change(int page, int count, int protection, enum access access)
{
    for (int i = 0; i < count; i++)
        if (access_to[page + i] == NONE)
            return;
    CHECK(mprotect(area + page * PAGE, count * PAGE, protection) == 0);
    for (int i = 0; i < count; i++)
        access_to[page + i] = access;
}

static void step(uint64_t *random)
{
    int page = next_random(random) % PAGES, count = 1 + next_random(random) % 16;
    if (page + count > PAGES)
        count = PAGES - page;
    char *at = area + page * PAGE;
    switch (next_random(random) % 8) {
    case 0:
        CHECK(mmap(at, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
        for (int i = 0; i < count; i++)
            held[page + i] = 0, access_to[page + i] = WRITE;
        break;
    case 1:
        CHECK(munmap(at, count * PAGE) == 0);
        for (int i = 0; i < count; i++)
            access_to[page + i] = NONE;
        break;
    case 2:
        change(page, count, PROT_READ, READ);
        break;
    case 3:
        change(page, count, PROT_READ | PROT_WRITE, WRITE);
        break;
    case 4:
        move_pages(page, next_random(random) % (PAGES - count + 1), count);
        break;
    case 5:
        for (int i = 0; i < count; i++)
            if (access_to[page + i] != NONE && madvise(at + i * PAGE, PAGE, MADV_DONTNEED) == 0)
                held[page + i] = 0;
        break;
    default:
        for (int i = 0; i < count; i++)
            if (access_to[page + i] == WRITE)
                fill(page + i, next_random(random) | 1);
    }
    verify(page);
    verify(next_random(random) % PAGES);
}

void memory(void)
{
    uint64_t random = getpid() * 0 + 7;
    handle(SIGSEGV, jump_out, SA_NODEFER);
    area = map_pages(PAGES, MAP_PRIVATE);
    for (int i = 0; i < PAGES; i++)
        access_to[i] = WRITE;
    for (int i = 0; i < STEPS; i++)
        step(&random);
    for (int i = 0; i < PAGES; i++)
        verify(i);
}

/* Writes by parent and children after a fork stay with the writer; what is shared is seen by all. */
void copies(void)
{
    enum { CHILDREN = 24, LONG = 512 };
    handle(SIGSEGV, jump_out, SA_NODEFER);
    char *own = map_pages(LONG, MAP_PRIVATE), *shared = map_pages(CHILDREN, MAP_SHARED);
    for (int i = 0; i < LONG; i++)
        own[i * PAGE + i] = (char)i;
    pid_t child[CHILDREN];
    for (int c = 0; c < CHILDREN; c++) {
        child[c] = fork();
        CHECK(child[c] >= 0);
        for (int i = c; child[c] == 0 && i < LONG; i += 3)
            own[i * PAGE + i] ^= 0x55;
        if (child[c] == 0) {
            for (int i = 0; i < LONG; i++)
                CHECK(own[i * PAGE + i] == (char)(i >= c && (i - c) % 3 == 0 ? i ^ 0x55 : i));
            memset(shared + c * PAGE, c + 1, PAGE);
            _exit(0);
        }
        own[c * PAGE] = own[c * PAGE];
    }
    for (int c = 0; c < CHILDREN; c++)
        CHECK(status_of(child[c]) == 0);
    for (int i = 0; i < LONG; i++)
        CHECK(own[i * PAGE + i] == (char)i);
    for (unsigned long i = 0; i < CHILDREN * PAGE; i++)
        CHECK(shared[i] == (char)(i / PAGE + 1));
}
