//! A vcpu that does nothing but issue hypercalls and stores from a list that others may rewrite at any moment.

#[cfg(target_os = "none")]
use oxen_abi::hypercall::Hypercall;

/// Words of a racer's block, by their places: how it is told to rest, whether it does, and what it has done.
pub(crate) mod word {
    /// Not 0: it rests.
    pub(crate) const REST: usize = 1;
    /// How often it has seen that it is to rest.
    pub(crate) const RESTED: usize = 2;
    /// Hypercalls that were answered with 0 or more.
    pub(crate) const DONE: usize = 3;
    /// Hypercalls that were refused.
    pub(crate) const REFUSED: usize = 4;
    /// Stores.
    pub(crate) const STORES: usize = 5;
    /// Exceptions.
    pub(crate) const FAULTS: usize = 6;
    /// Where its list begins.
    pub(crate) const LIST: usize = 32;
}

/// Entries of a list.
pub(crate) const ENTRIES: usize = 8;
/// Words of an entry: a hypercall's number and five arguments, or [`STORE`], an address and a word.
pub(crate) const ENTRY_WORDS: usize = 8;
/// In the number's place: a store.
pub(crate) const STORE: u64 = 64;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".pushsection .text.racer, \"ax\", @progbits",
    // The block in rbx, the entry in r12; both are the racer's alone, whatever its exceptions interrupt.
    "probe_racer_fault:",
    "inc qword ptr [rbx + {faults} * 8]",
    "probe_racer:",
    "mov rsp, [rbx]",
    "cmp qword ptr [rbx + {rest} * 8], 0",
    "jne 5f",
    "add r12, {entry_bytes}",
    "lea rax, [rbx + {list} * 8 + {entries} * {entry_bytes}]",
    "cmp r12, rax",
    "jb 2f",
    "lea r12, [rbx + {list} * 8]",
    "2: mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "cmp rax, {store}",
    "jae 4f",
    "syscall",
    "test rax, rax",
    "js 3f",
    "inc qword ptr [rbx + {done} * 8]",
    "jmp probe_racer",
    "3: inc qword ptr [rbx + {refused} * 8]",
    "jmp probe_racer",
    "4: mov [rdi], rsi",
    "inc qword ptr [rbx + {stores} * 8]",
    "jmp probe_racer",
    "5: inc qword ptr [rbx + {rested} * 8]",
    // sched_op, yield.
    "mov eax, {sched_op}",
    "xor edi, edi",
    "syscall",
    "jmp probe_racer",
    ".popsection",
    rest = const word::REST,
    rested = const word::RESTED,
    done = const word::DONE,
    refused = const word::REFUSED,
    stores = const word::STORES,
    faults = const word::FAULTS,
    list = const word::LIST,
    entries = const ENTRIES,
    entry_bytes = const ENTRY_WORDS * 8,
    store = const STORE,
    sched_op = const Hypercall::SchedOp as u32,
);

/// Where a racer begins, and where its exceptions and callbacks lead.
#[cfg(target_os = "none")]
pub(crate) fn entries() -> (u64, u64) {
    unsafe extern "C" {
        fn probe_racer();
        fn probe_racer_fault();
    }
    (probe_racer as *const () as u64, probe_racer_fault as *const () as u64)
}

/// The host has no vcpus.
#[cfg(not(target_os = "none"))]
pub(crate) fn entries() -> (u64, u64) {
    (0, 0)
}
