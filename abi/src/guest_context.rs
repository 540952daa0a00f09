//! A vcpu's registers and tables (`arch-x86/xen.h`, `arch-x86/xen-x86_64.h`).

use crate::trap::TrapInfo;

abi_struct! {
    /// The registers of a guest (`cpu_user_regs_t`).
    #[expect(missing_docs, reason = "the registers' own names")]
    pub struct CpuUserRegs [200] {
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
        pub error_code: u32,
        pub entry_vector: u32,
        pub rip: u64,
        pub cs: u16,
        pub _pad0: u16,
        pub saved_upcall_mask: u8,
        pub _pad1: [u8; 3],
        pub rflags: u64,
        pub rsp: u64,
        pub ss: u16,
        pub _pad2: [u16; 3],
        pub es: u16,
        pub _pad3: [u16; 3],
        pub ds: u16,
        pub _pad4: [u16; 3],
        pub fs: u16,
        pub _pad5: [u16; 3],
        pub gs: u16,
        pub _pad6: [u16; 3],
    }
    /// Everything a vcpu starts with (`vcpu_guest_context_t`).
    pub struct VcpuGuestContext [5168] {
        /// FXSAVE image, valid with `VGCF_I387_VALID`.
        pub fpu_ctxt: [u8; 512],
        /// `VGCF_*`
        pub flags: u64,
        /// Registers.
        pub user_regs: CpuUserRegs,
        /// Exception handlers.
        pub trap_ctxt: [TrapInfo; 256],
        /// LDT: linear address.
        pub ldt_base: u64,
        /// LDT: entries.
        pub ldt_ents: u64,
        /// GDT: machine frames.
        pub gdt_frames: [u64; 16],
        /// GDT: entries.
        pub gdt_ents: u64,
        /// Kernel stack: segment.
        pub kernel_ss: u64,
        /// Kernel stack: pointer.
        pub kernel_sp: u64,
        /// CR0 to CR7; CR3 holds a machine frame, `[1]` the user root.
        pub ctrlreg: [u64; 8],
        /// DR0 to DR7.
        pub debugreg: [u64; 8],
        /// Event callback.
        pub event_callback_eip: u64,
        /// Failsafe callback.
        pub failsafe_callback_eip: u64,
        /// Syscall callback.
        pub syscall_callback_eip: u64,
        /// `VMASST_TYPE_*` bits.
        pub vm_assist: u64,
        /// FS base.
        pub fs_base: u64,
        /// GS base of the kernel.
        pub gs_base_kernel: u64,
        /// GS base of user mode.
        pub gs_base_user: u64,
    }
}
