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

impl core::fmt::Display for Regs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(
            f,
            "rip {:#x}:{:#018x} rflags {:#x} rsp {:#x}:{:#018x}",
            self.cs, self.rip, self.rflags, self.ss, self.rsp
        )?;
        writeln!(f, "  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", self.rax, self.rbx, self.rcx, self.rdx)?;
        writeln!(f, "  rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", self.rsi, self.rdi, self.rbp, self.r8)?;
        writeln!(f, "  r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", self.r9, self.r10, self.r11, self.r12)?;
        write!(f, "  r13 {:016x} r14 {:016x} r15 {:016x}", self.r13, self.r14, self.r15)
    }
}
