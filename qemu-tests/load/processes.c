/* Many processes: forked, replaced by other programs, talking through pipes, ended in any order. */
#include <fcntl.h>

#include "load.h"

enum { RINGS = 8, ROUNDS = 150, SPAWNS = 100, TREE = 5 };

/* A token goes round a ring of processes. */
static void ring(void)
{
    int pipes[RINGS][2];
    for (int i = 0; i < RINGS; i++)
        CHECK(pipe(pipes[i]) == 0);
    pid_t child[RINGS];
    for (int i = 1; i < RINGS; i++) {
        child[i] = fork();
        CHECK(child[i] >= 0);
        for (int round = 0, token; child[i] == 0; round++) {
            if (round == ROUNDS)
                _exit(0);
            CHECK(read(pipes[i - 1][0], &token, sizeof token) == sizeof token);
            token++;
            CHECK(write(pipes[i][1], &token, sizeof token) == sizeof token);
        }
    }
    for (int round = 0, token = 0; round < ROUNDS; round++) {
        CHECK(write(pipes[0][1], &token, sizeof token) == sizeof token);
        CHECK(read(pipes[RINGS - 1][0], &token, sizeof token) == sizeof token);
        CHECK(token == (RINGS - 1) * (round + 1));
    }
    for (int i = 1; i < RINGS; i++)
        CHECK(status_of(child[i]) == 0);
    for (int i = 0; i < RINGS; i++)
        close(pipes[i][0]), close(pipes[i][1]);
}

/* Each process has two children down to the leaves; the statuses add up to how many there were. */
static int tree(int depth)
{
    if (depth == 0)
        return 1;
    int sum = 1;
    pid_t child[2];
    for (int i = 0; i < 2; i++) {
        child[i] = fork();
        CHECK(child[i] >= 0);
        if (child[i] == 0)
            _exit(tree(depth - 1));
    }
    for (int i = 0; i < 2; i++) {
        int status = status_of(child[i]);
        CHECK(WIFEXITED(status));
        sum += WEXITSTATUS(status);
    }
    return sum;
}

void processes(void)
{
    ring();
    CHECK(tree(TREE) == (1 << (TREE + 1)) - 1);
    for (int i = 0; i < SPAWNS; i++) {
        pid_t child = vfork();
        CHECK(child >= 0);
        if (child == 0) {
            execl("/bin/busybox", "busybox", i % 2 ? "true" : "false", (char *)NULL);
            _exit(99);
        }
        int status = status_of(child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (i % 2 == 0));
    }
}
