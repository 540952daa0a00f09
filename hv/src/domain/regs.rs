//! The registers of a guest, in the order in which the entry code leaves them on the stack (`cpu_user_regs`).

use x86_64::registers::rflags::RFlags;

/// General registers and what the CPU pushes. The first fifteen and the tail are `struct cpu_user_regs` of the ABI, up
/// to `ss`; the data selectors live in `VcpuState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub rflags: RFlags,
    pub rsp: u64,
    pub ss: u64,
}

impl Regs {
    /// Stands in `entry_vector` after `syscall`, as in Xen.
    pub const SYSCALL_VECTOR: u32 = 0x100;
}

impl Default for Regs {
    fn default() -> Self {
        Self {
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            error_code: 0,
            entry_vector: 0,
            rip: 0,
            cs: 0,
            rflags: RFlags::empty(),
            rsp: 0,
            ss: 0,
        }
    }
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

impl Regs {
    /// A general register by its number in instructions.
    #[inline]
    #[must_use]
    pub const fn general(&self, register: u8) -> u64 {
        match register & 15 {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            4 => self.rsp,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            _ => self.r15,
        }
    }

    /// A general register by its number, to be changed.
    #[inline]
    pub const fn general_mut(&mut self, register: u8) -> &mut u64 {
        match register & 15 {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => &mut self.rsp,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            _ => &mut self.r15,
        }
    }

    /// Writes a register as an instruction of this operand size does: 32 bits clear the
    /// upper half, fewer keep the rest.
    #[inline]
    pub const fn set_general(&mut self, register: u8, bytes: u8, value: u64) {
        let mask = operand_mask(bytes);
        let place = self.general_mut(register);
        let kept = if bytes < 4 { *place & !mask } else { 0 };
        *place = kept | value & mask;
    }
}

/// The bits of an operand of 1, 2, 4 or 8 bytes.
#[inline]
#[must_use]
pub const fn operand_mask(bytes: u8) -> u64 {
    match bytes {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}
