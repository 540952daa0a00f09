/* A TCG plug-in that counts what a count of instructions hides: the instructions for which a CPU charges much, and the
 * exceptions and interrupts that it takes.
 *
 * The guest marks intervals by two NOPs that nobody else has (BEGIN, END). For each interval a line of figures goes to the
 * file `out`, in the order of the columns that its first line names. What counts is what all CPUs do meanwhile. */

#include "qemu_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

EXPORTED int qemu_plugin_version = 1;

/* Columns. The first is all instructions, the last two are no events. */
enum kind {
    INSTRUCTIONS, TAKEN, IRET, SYSCALL, SYSRET, LOAD_CR3, LOAD_CR, INVLPG, LOCKED, WRMSR, RDMSR, RDTSC, SWAPGS, CLTS,
    STAC_CLAC, CPUID, FENCE, SEGMENT, TABLE, FLAGS, FPU, DIVIDE, PORT, HALT, ORDINARY, BEGIN, END, COLUMNS = ORDINARY
};

static const char *const names[COLUMNS] = {
    "instructions", "taken", "iret", "syscall", "sysret", "load_cr3", "load_cr", "invlpg", "locked", "wrmsr", "rdmsr",
    "rdtsc", "swapgs", "clts", "stac_clac", "cpuid", "fence", "segment", "table", "flags", "fpu", "divide", "port", "halt"
};

/* What is known of an instruction when it is translated, in one word: its address, length and kind, and whether another
 * one than the next may follow it. */
#define BRANCH 0x80
#define KIND(word) ((enum kind)((word) & 0x7f))
#define LENGTH(word) ((word) >> 8 & 0xff)
#define ADDRESS(word) ((uint64_t)((int64_t)(word) >> 16))

/* The slots of the address space that Xen's interface gives to the hypervisor. */
#define HYPERVISOR_START 0xffff800000000000u
#define HYPERVISOR_END 0xffff880000000000u

#define MAX_CPUS 64
#define MAX_ENTRIES 512

static struct {
    uint64_t last;
    bool started;
} cpus[MAX_CPUS];

static FILE *out;
static uint64_t counts[COLUMNS], begun[COLUMNS];
static bool open_interval;
static unsigned int opener;

/* Where guests were seen to enter the hypervisor by something else than an instruction made for it. */
static uint64_t entries[MAX_ENTRIES];
static size_t entry_count;

static bool is_entry(uint64_t address)
{
    for (size_t i = 0; i < entry_count; i++)
        if (entries[i] == address)
            return true;
    return false;
}

static bool is_hypervisors(uint64_t address)
{
    return address >= HYPERVISOR_START && address < HYPERVISOR_END;
}

/* Whether an exception or an interrupt stands between two instructions of a CPU: the guest's code goes on in the
 * hypervisor without having asked for it, the hypervisor's own goes on elsewhere without a branch, or a branch leads to
 * where only exceptions lead. */
static bool was_taken(uint64_t last, uint64_t address)
{
    if (!is_hypervisors(address))
        return false;
    if (!is_hypervisors(ADDRESS(last))) {
        if (KIND(last) == SYSCALL)
            return false;
        if (!is_entry(address) && entry_count < MAX_ENTRIES)
            entries[entry_count++] = address;
        return true;
    }
    if (last & BRANCH)
        return is_entry(address);
    /* A repeated string instruction comes again. */
    return address != ADDRESS(last) + LENGTH(last) && address != ADDRESS(last);
}

static void close_interval(void)
{
    for (size_t i = 0; i < COLUMNS; i++)
        fprintf(out, i + 1 < COLUMNS ? "%lu " : "%lu\n", (unsigned long)(counts[i] - begun[i]));
    fflush(out);
    open_interval = false;
}

static void on_instruction(unsigned int cpu, void *data)
{
    uint64_t word = (uint64_t)data;
    enum kind kind = KIND(word);

    if (cpu >= MAX_CPUS)
        return;
    if (cpus[cpu].started && was_taken(cpus[cpu].last, ADDRESS(word)))
        counts[TAKEN]++;
    cpus[cpu].last = word;
    cpus[cpu].started = true;
    counts[INSTRUCTIONS]++;
    if (kind < ORDINARY)
        counts[kind]++;
    if (kind == BEGIN || (kind == HALT && open_interval && cpu == opener && is_hypervisors(ADDRESS(word)))) {
        /* Who waits for something begins when nothing is left to do but wait. */
        memcpy(begun, counts, sizeof counts);
        open_interval = true;
        opener = cpu;
    } else if (kind == END && open_interval) {
        close_interval();
    }
}

/* Instructions behind 0x0f. `modrm` is the byte behind the opcode. */
static enum kind kind_of_two_bytes(uint8_t opcode, uint8_t modrm, uint8_t prefix)
{
    uint8_t reg = modrm >> 3 & 7, is_register = modrm >> 6 == 3;

    switch (opcode) {
    case 0x00: /* LLDT, LTR */
        return reg == 2 || reg == 3 ? TABLE : ORDINARY;
    case 0x01:
        if (modrm == 0xca || modrm == 0xcb)
            return STAC_CLAC;
        if (modrm == 0xf8)
            return SWAPGS;
        if (modrm == 0xf9)
            return RDTSC;
        if (modrm == 0xd1) /* XSETBV */
            return WRMSR;
        if (is_register)
            return ORDINARY;
        return reg == 7 ? INVLPG : reg == 2 || reg == 3 ? TABLE : ORDINARY;
    case 0x05: case 0x34: return SYSCALL;
    case 0x07: case 0x35: return SYSRET;
    case 0x06: return CLTS;
    case 0x22: return reg == 3 ? LOAD_CR3 : LOAD_CR;
    case 0x30: return WRMSR;
    case 0x31: return RDTSC;
    case 0x32: return RDMSR;
    case 0xa1: case 0xa9: case 0xb2: case 0xb4: case 0xb5: return SEGMENT;
    case 0xa2: return CPUID;
    case 0xae:
        if (prefix == 0xf3)
            return ORDINARY; /* RDFSBASE and the like */
        if (is_register)
            return reg >= 5 ? FENCE : ORDINARY;
        return reg == 0 || reg == 1 || (reg >= 4 && reg <= 6) ? FPU : ORDINARY;
    case 0xc7: /* XRSTORS, XSAVEC, XSAVES */
        return !is_register && reg >= 3 && reg <= 5 ? FPU : ORDINARY;
    default: return ORDINARY;
    }
}

static enum kind kind_of_one_byte(uint8_t opcode, uint8_t modrm)
{
    uint8_t reg = modrm >> 3 & 7;

    switch (opcode) {
    case 0x8e: case 0xca: case 0xcb: return SEGMENT;
    case 0xcf: return IRET;
    case 0x9d: case 0xfa: case 0xfb: return FLAGS;
    case 0x6c: case 0x6d: case 0x6e: case 0x6f: case 0xe4: case 0xe5: case 0xe6: case 0xe7:
    case 0xec: case 0xed: case 0xee: case 0xef: return PORT;
    case 0xf4: return HALT;
    case 0xf6: case 0xf7: return reg >= 6 ? DIVIDE : ORDINARY;
    case 0x86: case 0x87: return modrm >> 6 == 3 ? ORDINARY : LOCKED;
    case 0xff: return reg == 3 || reg == 5 ? SEGMENT : ORDINARY;
    default: return ORDINARY;
    }
}

static bool is_branch(const uint8_t *code, uint8_t modrm)
{
    uint8_t opcode = code[0], reg = modrm >> 3 & 7;

    if (opcode == 0x0f)
        return (code[1] & 0xf0) == 0x80 || code[1] == 0x05 || code[1] == 0x07 || code[1] == 0x34 || code[1] == 0x35;
    return (opcode & 0xf0) == 0x70 || (opcode >= 0xe0 && opcode <= 0xe3) || (opcode >= 0xe8 && opcode <= 0xeb) ||
           opcode == 0xc2 || opcode == 0xc3 || opcode == 0xca || opcode == 0xcb || opcode == 0xcf ||
           (opcode == 0xff && reg >= 2 && reg <= 5);
}

/* NOPs whose address nobody computes: 0x4f58 is "OX". */
static enum kind mark(const uint8_t *code, size_t length)
{
    static const uint8_t begin[] = { 0x0f, 0x1f, 0x80, 'O', 'X', 'E', 'N' };
    static const uint8_t end[] = { 0x0f, 0x1f, 0x80, 'N', 'E', 'X', 'O' };

    if (length == sizeof begin && memcmp(code, begin, length) == 0)
        return BEGIN;
    return length == sizeof end && memcmp(code, end, length) == 0 ? END : ORDINARY;
}

/* The kind of an instruction, with BRANCH. */
static uint64_t classify(const uint8_t *code, size_t length)
{
    uint8_t bytes[16] = { 0 }, prefix = 0, modrm;
    bool is_locked = false;
    enum kind kind = mark(code, length);
    size_t at = 0;

    if (kind != ORDINARY)
        return kind;
    memcpy(bytes, code, length < 15 ? length : 15);
    for (;; at++) {
        uint8_t byte = bytes[at];
        if (byte == 0xf0)
            is_locked = true;
        else if (byte == 0xf2 || byte == 0xf3)
            prefix = byte;
        else if (byte != 0x66 && byte != 0x67 && byte != 0x2e && byte != 0x36 && byte != 0x3e && byte != 0x26 &&
                 byte != 0x64 && byte != 0x65 && (byte & 0xf0) != 0x40)
            break;
        if (at == 12)
            return ORDINARY;
    }
    modrm = bytes[at + 1 + (bytes[at] == 0x0f)];
    if (is_locked)
        kind = LOCKED;
    else if (bytes[at] == 0x0f)
        kind = kind_of_two_bytes(bytes[at + 1], modrm, prefix);
    else
        kind = kind_of_one_byte(bytes[at], modrm);
    return kind | (is_branch(bytes + at, modrm) ? BRANCH : 0);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t count = qemu_plugin_tb_n_insns(tb);

    (void)id;
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        size_t length = qemu_plugin_insn_size(insn);
        uint64_t address = qemu_plugin_insn_vaddr(insn), class = classify(qemu_plugin_insn_data(insn), length);
        uint64_t word;

        /* The guest's own looks at the counter are the measurement's. */
        if (KIND(class) == RDTSC && !is_hypervisors(address))
            class = ORDINARY;
        word = address << 16 | length << 8 | class;
        qemu_plugin_register_vcpu_insn_exec_cb(insn, on_instruction, QEMU_PLUGIN_CB_NO_REGS, (void *)word);
    }
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    if (strcmp(info->target_name, "x86_64") != 0 || !info->system_emulation) {
        fprintf(stderr, "events: for machines of x86-64 only\n");
        return 1;
    }
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || !(out = fopen(argv[0] + 4, "w"))) {
        fprintf(stderr, "events: out=FILE, in a folder that can be written\n");
        return 1;
    }
    for (size_t i = 0; i < COLUMNS; i++)
        fprintf(out, i + 1 < COLUMNS ? "%s " : "%s\n", names[i]);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
