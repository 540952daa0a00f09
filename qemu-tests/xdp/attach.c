/* Lets a program of the kernel's look at each frame that an interface receives, for as long as this one runs. It lets ARP
 * pass, and IPv4 but for ICMP, and drops all else: a frame that does not begin where the program is told looks like
 * something else, and where no program looks at frames, echoes are answered. */
#include <linux/bpf.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INSTRUCTION(what, to, from, skip, value) \
    { .code = (what), .dst_reg = (to), .src_reg = (from), .off = (skip), .imm = (value) }

static const struct bpf_insn program[] = {
    INSTRUCTION(BPF_LDX | BPF_MEM | BPF_W, 2, 1, 0, 0),                 /* where the frame begins */
    INSTRUCTION(BPF_LDX | BPF_MEM | BPF_W, 3, 1, 4, 0),                 /* and where it ends */
    INSTRUCTION(BPF_ALU64 | BPF_MOV | BPF_X, 4, 2, 0, 0),
    INSTRUCTION(BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, 34),
    INSTRUCTION(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, XDP_DROP),
    INSTRUCTION(BPF_JMP | BPF_JGT | BPF_X, 4, 3, 6, 0),                 /* too short */
    INSTRUCTION(BPF_LDX | BPF_MEM | BPF_H, 4, 2, 12, 0),                /* its type, of swapped bytes */
    INSTRUCTION(BPF_JMP | BPF_JEQ | BPF_K, 4, 0, 3, 0x0608),
    INSTRUCTION(BPF_JMP | BPF_JNE | BPF_K, 4, 0, 3, 0x0008),
    INSTRUCTION(BPF_LDX | BPF_MEM | BPF_B, 4, 2, 23, 0),                /* its protocol */
    INSTRUCTION(BPF_JMP | BPF_JEQ | BPF_K, 4, 0, 1, 1),
    INSTRUCTION(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, XDP_PASS),
    INSTRUCTION(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
};

static int bpf(int command, union bpf_attr *attributes) {
    return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

int main(int count, char **words) {
    union bpf_attr load, link;
    if (count != 2) {
        fprintf(stderr, "attach INTERFACE\n");
        return 2;
    }
    memset(&load, 0, sizeof load);
    load.prog_type = BPF_PROG_TYPE_XDP;
    load.insns = (uintptr_t)program;
    load.insn_cnt = sizeof program / sizeof *program;
    load.license = (uintptr_t)"Dual MIT/GPL";
    int loaded = bpf(BPF_PROG_LOAD, &load);
    if (loaded < 0) {
        perror("the program");
        return 1;
    }
    memset(&link, 0, sizeof link);
    link.link_create.prog_fd = (uint32_t)loaded;
    link.link_create.target_ifindex = if_nametoindex(words[1]);
    link.link_create.attach_type = BPF_XDP;
    /* By the interface's driver, and not behind it. */
    link.link_create.flags = 1U << 2;
    if (bpf(BPF_LINK_CREATE, &link) < 0) {
        perror(words[1]);
        return 1;
    }
    printf("attached to %s\n", words[1]);
    fflush(stdout);
    pause();
    return 0;
}
