//! The registers of a guest, in the order in which the entry code leaves them on the stack (`cpu_user_regs`).

/// General registers and what the CPU pushes. The first fifteen and the tail are `struct cpu_user_regs` of the ABI, up to
/// `ss`; the data selectors live in `VcpuState`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the CPU's own names")]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// What the CPU pushed with an exception; unused otherwise.
    pub error_code: u32,
    /// The exception's or interrupt's number; [`Regs::SYSCALL_VECTOR`] after `syscall`.
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl Regs {
    /// Stands in `entry_vector` after `syscall`, as in Xen.
    pub const SYSCALL_VECTOR: u32 = 0x100;
}
