/* Runs the parts of the load, each in a process of its own, and says of each whether it was right and how long it took. */
#include "load.h"

static const struct {
    const char *name;
    void (*run)(void);
} parts[] = {
    {"memory", memory},
    {"copies", copies},
    {"processes", processes},
#ifndef WITHOUT_ASSEMBLY
    {"signals", signals},
    {"timer", timer},
    {"contexts", contexts},
    {"threads", threads},
    {"shootdowns", shootdowns},
    {"tracing", tracing},
    {"breakpoints", breakpoints},
    {"vectors", vectors},
    {"segments", segments},
    {"entries", entries},
#endif
};

/* Seconds after which a part that hangs is ended. */
#define PATIENCE 60

int main(int count, char **names)
{
    int failures = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        int is_wanted = count == 1;
        for (int n = 1; n < count; n++)
            is_wanted |= strcmp(names[n], parts[i].name) == 0;
        if (!is_wanted)
            continue;
        struct timespec before, after;
        clock_gettime(CLOCK_MONOTONIC, &before);
        fflush(stdout);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(PATIENCE);
            parts[i].run();
            _exit(0);
        }
        int status = status_of(child);
        clock_gettime(CLOCK_MONOTONIC, &after);
        long ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
        printf("load%zu %s %s (%ld ms, status %x)\n", 8 * sizeof(long), parts[i].name, status == 0 ? "right" : "WRONG", ms,
               status);
        failures += status != 0;
    }
    printf("load%zu: %d wrong\n", 8 * sizeof(long), failures);
    return failures != 0;
}
