//! One instruction at a time, with registers of the caller's choice, and what came of it: registers, or an exception.

#[cfg(target_os = "none")]
use oxen_abi::hypercall::Hypercall;

/// The registers before and after, and the exception where there was one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    /// RAX, RBX, RCX, RDX, RSI, RDI.
    pub(crate) registers: [u64; 6],
    /// The exception's vector; [`NONE`] without one.
    pub(crate) vector: u64,
    /// Its error code, 0 where the vector has none.
    pub(crate) error: u64,
    /// How far the exception's place is behind the instruction's begin.
    pub(crate) offset: u64,
}

/// No exception.
pub(crate) const NONE: u64 = 256;

/// Defines the instructions: a name that is printed, the code, and its place.
macro_rules! instructions {
    ($($name:literal: $($line:literal),+;)*) => {
        /// The instructions that can be tried, by what is printed for them. In order of their places in memory.
        pub(crate) const NAMES: &[&str] = &[$($name),*];

        #[cfg(target_os = "none")]
        core::arch::global_asm!(
            ".pushsection .text.trapped, \"ax\", @progbits",
            ".balign 64",
            "probe_trial_first:",
            // Each has a place of 64 bytes.
            $($($line,)+ "jmp probe_trial_back", ".balign 64",)*
            ".popsection",
        );
    };
}

instructions! {
    "rdmsr": "rdmsr";
    "wrmsr": "wrmsr";
    "rewrite msr": "rdmsr", "wrmsr", "xor eax, eax", "xor edx, edx";
    "forced cpuid": ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e", "cpuid";
    "cpuid": "cpuid";
    "read cr0": "mov rax, cr0";
    "read cr2": "mov rax, cr2";
    "read cr4": "mov rax, cr4";
    "read cr8": "mov rax, cr8";
    "flip cr0": "mov rax, cr0", "xor rax, rbx", "mov cr0, rax", "mov rax, cr0";
    "write cr2": "mov cr2, rax", "mov rcx, cr2";
    "rewrite cr3": "mov rax, cr3", "mov cr3, rax", "xor eax, eax";
    "write cr3": "mov cr3, rax";
    "flip cr4": "mov rax, cr4", "xor rax, rbx", "mov cr4, rax", "mov rax, cr4";
    "write cr8": "mov cr8, rax";
    "read dr0": "mov rax, dr0";
    "read dr5": "mov rax, dr5";
    "read dr6": "mov rax, dr6";
    "read dr7": "mov rax, dr7";
    "write dr1": "mov dr1, rax";
    "write dr6": "mov dr6, rax";
    "clts": "clts";
    "invlpg": "invlpg [rdi]";
    "wbinvd": "wbinvd";
    "invd": "invd";
    "in al": "in al, dx";
    "in ax": "in ax, dx";
    "in eax": "in eax, dx";
    "in imm": "in al, 0x60";
    "out al": "out dx, al";
    "out eax": "out dx, eax";
    "insb": "mov rdi, rbx", "insb";
    "rep ins": "mov rdi, rbx", "rep insd";
    "rep insb backwards": "mov rdi, rbx", "std", "rep insb", "cld";
    "outsb": "mov rsi, rbx", "outsb";
    "rep outs": "mov rsi, rbx", "rep outsw";
    "cli": "cli";
    "sti": "sti";
    "pushf": "pushfq", "pop rax", "and eax, 0xfffff72a";
    "popf": "and eax, 0xfffffeff", "push rax", "popfq", "pushfq", "pop rax", "and eax, 0xfffff72a";
    "lgdt": "lgdt [rdi]";
    "lidt": "lidt [rdi]";
    "lldt": "lldt ax";
    "ltr": "ltr ax";
    "str": "str eax";
    "sldt": "sldt eax";
    "smsw": "smsw rax";
    "lmsw": "lmsw ax";
    "rdpmc": "rdpmc";
    "xgetbv": "xgetbv";
    "xsetbv": "xsetbv";
    "swapgs": "swapgs";
    "rdfsbase": "rdfsbase rax";
    "wrgsbase": "wrgsbase rax", "rdgsbase rcx";
    "int3": "int3";
    "int1": ".byte 0xf1";
    "int 0x41": "int 0x41";
    "int 0x80": "int 0x80";
    "int 0x82": "int 0x82";
    "ud2": "ud2";
    "divide": "xor edx, edx", "xor ecx, ecx", "div rcx";
    "load ds": "mov ds, eax", "mov eax, ds", "xor ebx, ebx", "mov ds, ebx";
    "load fs": "mov fs, eax", "mov eax, fs", "xor ebx, ebx", "mov fs, ebx";
    "load gs": "mov gs, eax", "mov eax, gs", "xor ebx, ebx", "mov gs, ebx";
    "load ss": "mov ecx, ss", "mov ss, eax", "mov eax, ss", "mov ss, ecx";
    "lar": "xor ecx, ecx", "lar ecx, eax", "xor eax, eax";
    "lsl": "xor ecx, ecx", "lsl ecx, eax", "xor eax, eax";
    "fninit": "fninit";
    "movaps": "movaps xmm0, xmm0";
    "clac": "clac";
    "monitor": "mov rax, rdi", "xor ecx, ecx", "xor edx, edx", "monitor";
    "vmcall": "vmcall";
    "sysretq": "sysretq";
    "read": "mov rax, [rdi]";
    "write": "mov [rdi], rax";
    "write 4": "mov [rdi], eax";
    "write 1": "mov [rdi], al";
    "exchange": "xchg [rdi], rax";
    "compare and write": "mov rbx, rax", "mov rax, [rdi]", "lock cmpxchg [rdi], rbx";
    "or": "lock or [rdi], rax";
    "misaligned": "pushfq", "or dword ptr [rsp], 0x40000", "popfq", "mov rax, [rdi]", "xor eax, eax";
    "run": "jmp rdi";
}

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".pushsection .bss.trapped, \"aw\", @nobits",
    ".balign 8",
    "probe_trial_at: .skip 8",
    // Zero while nothing is tried.
    "probe_trial_stack: .skip 8",
    "probe_trial_rax: .skip 8",
    ".popsection",
    ".pushsection .text.trapped, \"ax\", @progbits",
    // The trial in rdi, the instruction's place in rsi.
    "probe_trial:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rip + probe_trial_at], rdi",
    "mov [rip + probe_trial_stack], rsp",
    "mov r11, rsi",
    "mov rax, [rdi]",
    "mov rbx, [rdi + 8]",
    "mov rcx, [rdi + 16]",
    "mov rdx, [rdi + 24]",
    "mov rsi, [rdi + 32]",
    "mov rdi, [rdi + 40]",
    "jmp r11",
    "probe_trial_back:",
    "mov [rip + probe_trial_rax], rax",
    "mov rax, [rip + probe_trial_at]",
    "probe_trial_store:",
    "mov [rax + 8], rbx",
    "mov [rax + 16], rcx",
    "mov [rax + 24], rdx",
    "mov [rax + 32], rsi",
    "mov [rax + 40], rdi",
    "mov rcx, [rip + probe_trial_rax]",
    "mov [rax], rcx",
    "mov rsp, [rip + probe_trial_stack]",
    // Without a check of alignment, which Rust's code does not have in mind.
    "pushfq",
    "and dword ptr [rsp], ~0x40000",
    "popfq",
    "mov qword ptr [rip + probe_trial_stack], 0",
    "cld",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    // An exception ends the trial. The kernel runs on in its handler: nothing has to be returned from.
    "probe_trial_trap:",
    "cmp qword ptr [rip + probe_trial_stack], 0",
    "je 2f",
    "mov [rip + probe_trial_rax], rax",
    "mov rax, [rip + probe_trial_at]",
    "pop qword ptr [rax + 48]",
    "pop qword ptr [rax + 56]",
    "pop qword ptr [rax + 64]",
    "jmp probe_trial_store",
    // Outside of a trial it is the end, which has to be seen: a crash, with the vector, the error code, and the place.
    "2: pop r12",
    "pop r13",
    "pop r14",
    "push 0",
    "push 3",
    "mov rsi, rsp",
    "mov edi, 2",
    "call hypercall_page + {sched_op}",
    "ud2",
    ".altmacro",
    ".macro probe_trial_entry vector",
    ".balign 32",
    "pop rcx",
    "pop r11",
    ".if (0x227d00 >> \\vector) & 1 == 0",
    "push 0",
    ".endif",
    "push \\vector",
    "jmp probe_trial_trap",
    ".endm",
    ".balign 32",
    "probe_trial_entries:",
    ".set probe_vector, 0",
    ".rept 32",
    "probe_trial_entry %probe_vector",
    ".set probe_vector, probe_vector + 1",
    ".endr",
    ".noaltmacro",
    ".popsection",
    sched_op = const Hypercall::SchedOp as usize * 32,
);

/// The entry for an exception of vector 0 to 31.
#[cfg(target_os = "none")]
pub(crate) fn entry(vector: u64) -> u64 {
    unsafe extern "C" {
        fn probe_trial_entries();
    }
    probe_trial_entries as *const () as u64 + (vector & 31) * 32
}

/// Tries instruction `index` of [`NAMES`].
#[cfg(target_os = "none")]
pub(crate) fn attempt(index: usize, registers: [u64; 6]) -> Trial {
    unsafe extern "C" {
        fn probe_trial(trial: *mut Trial, place: u64);
        fn probe_trial_first();
    }
    let place = probe_trial_first as *const () as u64 + index as u64 * 64;
    let mut trial = Trial { registers, vector: NONE, error: 0, offset: place };
    // SAFETY: the instruction changes registers that are saved around it, and memory that the caller names, which is
    // a page for experiments or is not there; an exception ends in the code above.
    unsafe { probe_trial(&raw mut trial, place) };
    trial.offset = trial.offset.wrapping_sub(place);
    trial
}

/// The host has no entries.
#[cfg(not(target_os = "none"))]
pub(crate) fn entry(_vector: u64) -> u64 {
    0
}

/// The host tries nothing.
#[cfg(not(target_os = "none"))]
pub(crate) fn attempt(_index: usize, registers: [u64; 6]) -> Trial {
    Trial { registers, vector: NONE, error: 0, offset: 0 }
}

/// Reads a word of a page that is mapped for good.
pub(crate) fn peek(address: u64) -> u64 {
    // SAFETY: callers read pages of their own, or page tables by the guest's direct map.
    unsafe { core::ptr::read_volatile(address as *const u64) }
}
