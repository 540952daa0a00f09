//! Virtual CPUs: what others may see of one, and the state that belongs to the CPU it runs on.

use super::regs::Regs;
use super::{
    control_registers::CR4_AT_START,
    traps::{Callback, TrapTable},
};
use crate::{
    atomic_flags::AtomicFlags,
    features::Leaf1Ecx,
    lock::{Lock, rank},
    mem::{
        RamFrame,
        root::{LoadedRoots, RootAddress},
    },
    ports::Registers,
    sched::work::Work,
    shared_info::VcpuInfoPlace,
    speculation::{SpecCtrl, Ways},
};
use alloc::boxed::Box;
use bitflags::bitflags;
use core::sync::atomic::{AtomicBool, AtomicU64};
use oxen_abi::{domid::DomId, segments::XEN_LEGACY_MAX_VCPUS};
use x86_64::registers::control::Cr4Flags;
use x86_64::registers::debug::Dr6Flags;
use x86_64::registers::debug::Dr7Flags;
use x86_64::registers::xcontrol::XCr0Flags;

bitflags! {
    /// Why a vcpu does not run.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pauses: u32 {
        /// Not yet brought up, or taken down (`VCPUOP_up`, `VCPUOP_down`).
        const DOWN = 1 << 0;
        /// Waits for an event (`SCHEDOP_block`).
        const BLOCKED = 1 << 1;
        /// Waits for one of some ports (`SCHEDOP_poll`).
        const POLLING = 1 << 2;
        /// Its domain is paused, by the toolstack or because it is being changed or torn down.
        const DOMAIN = 1 << 3;
        /// Its domain has shut down.
        const SHUT_DOWN = 1 << 4;
        /// It is to go to another CPU, and to leave the one that it is on.
        const MOVING = 1 << 5;
        /// What an event ends.
        const WAITING = Self::BLOCKED.bits() | Self::POLLING.bits();
    }
}

/// A virtual CPU, as everybody may touch it.
#[derive(Debug)]
pub struct Vcpu {
    /// Its domain's id.
    pub domain: DomId,
    /// Its number in the domain.
    pub id: u32,
    /// Why it does not run.
    pub pauses: AtomicFlags<Pauses>,
    /// Its state while it does not run; `None` while a CPU has it, or before it was initialised.
    pub slot: Lock<Option<Box<VcpuState>>, { rank::VCPU_STATE }>,
    /// Whether `VCPUOP_initialise` or the toolstack gave it a context.
    pub is_initialised: AtomicBool,
    /// Where its `vcpu_info` is.
    pub info: Lock<Option<VcpuInfoPlace>, { rank::VCPU_INFO }>,
    /// The guest's own frame that holds it, once the guest chose one: held writable.
    pub info_frame: Lock<Option<RamFrame>, { rank::VCPU_INFO_FRAME }>,
    /// What is to be done before it next runs guest code.
    pub work: AtomicFlags<Work>,
    /// What the event channels keep.
    pub events: crate::event::VcpuEvents,
    /// What the scheduler and the clock keep.
    pub sched: crate::sched::VcpuSched,
    /// Nanoseconds of system time at which its one-shot timer fires; `u64::MAX`: not set.
    pub timer: AtomicU64,
}

impl Vcpu {
    /// A vcpu that is not ready for the reasons `pauses`, and has no context yet.
    #[must_use]
    pub fn new(domain: DomId, id: u32, info: VcpuInfoPlace, state: Box<VcpuState>, pauses: Pauses, now: u64) -> Self {
        Self {
            domain,
            id,
            pauses: AtomicFlags::new(pauses),
            slot: Lock::new(Some(state)),
            is_initialised: AtomicBool::new(false),
            info: Lock::new(Some(info)),
            info_frame: Lock::new(None),
            work: AtomicFlags::empty(),
            events: crate::event::VcpuEvents::default(),
            sched: crate::sched::VcpuSched::new(now),
            timer: AtomicU64::new(u64::MAX),
        }
    }

    /// Whether the guest can find its `vcpu_info`: in `shared_info`, or where it had it brought to.
    #[must_use]
    pub fn has_info(&self) -> bool {
        (self.id as usize) < XEN_LEGACY_MAX_VCPUS || self.info_frame.lock().is_some()
    }
}

/// The extended register state, in the format of XSAVE (or FXSAVE in its first 512 bytes).
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct ExtendedState(pub [u8; Self::BYTES]);

impl ExtendedState {
    /// Room for x87, SSE, AVX and AVX-512.
    pub const BYTES: usize = 2752;
    /// The state after FNINIT, with every SSE exception masked (Intel SDM vol. 1, 13.6): FCW and MXCSR.
    pub const RESET: Self = {
        let mut bytes = [0; Self::BYTES];
        [bytes[0], bytes[1]] = [0x7f, 0x03];
        [bytes[24], bytes[25]] = [0x80, 0x1f];
        Self(bytes)
    };
    /// Parts of the state that are kept for guests, as bits of XCR0: x87, SSE, AVX, AVX-512.
    pub const KEPT: u64 = XCr0Flags::X87.union(XCr0Flags::SSE).union(XCr0Flags::AVX).union(AVX_512).bits();
    /// Bytes that the format leaves to software, for XCR0 at their begin.
    pub const SOFTWARE_AT: usize = 464;
    /// How many they are.
    pub const SOFTWARE_BYTES: usize = 48;
    /// Where XSAVE's header says which parts there are, and what else is in it.
    const HEADER: core::ops::Range<usize> = 512..576;

    /// Parts that the machine has and guests may use.
    #[must_use]
    pub fn parts(machine: &impl Registers) -> u64 {
        let [_, _, features, _] = machine.cpuid(1, 0);
        let [low, _, _, high] = machine.cpuid(0xd, 0);
        let has_xsave = Leaf1Ecx::from_bits_retain(features).contains(Leaf1Ecx::XSAVE);
        if has_xsave { (u64::from(high) << 32 | u64::from(low)) & Self::KEPT } else { 0 }
    }

    /// Bytes of these parts in the standard format (Intel SDM vol. 1, 13.4).
    #[must_use]
    pub fn standard_bytes(machine: &impl Registers, parts: u64) -> u64 {
        let end = |part: u32| {
            let [size, offset, ..] = machine.cpuid(0xd, part);
            u64::from(offset) + u64::from(size)
        };
        let last = (2..63).filter(|part| parts >> part & 1 != 0).map(end).max().unwrap_or(0);
        last.clamp(Self::HEADER.end as u64, Self::BYTES as u64)
    }

    /// XCR0 of the vcpu whose state this is.
    #[inline]
    #[must_use]
    pub fn xcr0(&self) -> u64 {
        self.word(Self::SOFTWARE_AT)
    }

    /// Sets XCR0 of the vcpu whose state this is.
    #[inline]
    pub fn set_xcr0(&mut self, value: u64) {
        if let Some(place) = self.0.get_mut(Self::SOFTWARE_AT..Self::SOFTWARE_AT + 8) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// The first bytes of the area.
    #[must_use]
    pub fn standard(&self, bytes: usize) -> &[u8] {
        self.0.get(..bytes).unwrap_or(&self.0)
    }

    /// Whether a CPU that has `parts` takes this state with XCR0 as it is, of a vcpu that ever used the parts `ever`
    /// (Intel SDM vol. 1, 13.8.1 and 2.6).
    #[must_use]
    pub fn is_sound(&self, xcr0: u64, ever: u64, parts: u64) -> bool {
        let is_possible = |xcr0: u64| {
            let parts = XCr0Flags::from_bits_retain(xcr0);
            parts.contains(XCr0Flags::X87)
                && (!parts.contains(XCr0Flags::AVX) || parts.contains(XCr0Flags::SSE))
                && (!parts.intersects(AVX_512) || parts.contains(AVX_512 | XCr0Flags::AVX))
        };
        let reserved = Self::HEADER.start + 8..Self::HEADER.end;
        ever & !parts == 0
            && xcr0 & !ever == 0
            && is_possible(xcr0)
            && is_possible(ever)
            && self.word(Self::HEADER.start) & !ever == 0
            && self.0.get(reserved).is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
    }

    #[inline]
    fn word(&self, at: usize) -> u64 {
        self.0.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
    }
}

/// Parts of the extended state that AVX-512 has beside AVX's.
const AVX_512: XCr0Flags = XCr0Flags::OPMASK.union(XCr0Flags::ZMM_HI256).union(XCr0Flags::HI16_ZMM);

/// Pages of an LDT at most.
pub const LDT_PAGES: usize = 16;

/// What only the CPU that runs the vcpu may touch: it is *moved* there, so no lock is needed.
#[derive(Debug)]
pub struct VcpuState {
    /// The registers, while it does not run.
    pub regs: Regs,
    /// x87, SSE, AVX; in the CPU while it runs.
    pub extended: ExtendedState,
    /// Whether it is in its kernel: hypercalls are taken, the kernel's root is loaded.
    pub in_kernel: bool,
    /// Where its `vcpu_info` is: the same place as [`Vcpu::info`], for the CPU that runs it.
    pub info: VcpuInfoPlace,
    /// Exception handlers (`set_trap_table`).
    pub traps: TrapTable,
    /// Entry for events.
    pub event_callback: Callback,
    /// Entry for data selectors that the CPU does not take any more.
    pub failsafe_callback: Callback,
    /// Entry for `syscall` from user mode.
    pub syscall_callback: Callback,
    /// Entry for `syscall` from 32-bit user mode.
    pub syscall32_callback: Callback,
    /// Entry for `sysenter` from user mode.
    pub sysenter_callback: Callback,
    /// The selectors that a toolstack named with these two. A 64-bit kernel is entered by its own all the same.
    pub callback_selectors: [u16; 2],
    /// The stack of the guest's kernel, taken when it is entered from user mode (`stack_switch`).
    pub kernel_ss: u64,
    /// See [`Self::kernel_ss`].
    pub kernel_sp: u64,
    /// FS base.
    pub fs_base: u64,
    /// GS base in the guest's kernel.
    pub gs_base_kernel: u64,
    /// GS base in the guest's user mode.
    pub gs_base_user: u64,
    /// What RDTSCP answers in ECX.
    pub tsc_aux: u32,
    /// `MCG_STATUS`, which the guest alone writes: there are no machine checks.
    pub machine_check_status: u64,
    /// Data selectors: DS, ES, FS, GS.
    pub selectors: [u16; 4],
    /// Whether the CPU did not take them all when the vcpu was loaded: then they wait here.
    pub selectors_wait: bool,
    /// Frames of the guest's GDT, each held as a descriptor page.
    pub gdt: [Option<RamFrame>; 14],
    /// Entries of the guest's GDT.
    pub gdt_entries: u16,
    /// Linear address of the guest's LDT.
    pub ldt_base: u64,
    /// Entries of the guest's LDT.
    pub ldt_entries: u16,
    /// Frames of the guest's LDT as far as they were used, each held as a descriptor page.
    pub ldt: [Option<RamFrame>; LDT_PAGES],
    /// CR0.TS as the guest set it.
    pub task_switched: bool,
    /// CR4 as the guest sees it.
    pub cr4: Cr4Flags,
    /// Whether reading the time stamp counter traps, since its domain's is emulated.
    pub traps_tsc: bool,
    /// `SPEC_CTRL` as the guest wrote it.
    pub spec_ctrl: SpecCtrl,
    /// What the ways in and out of ring 0 do while it runs; found anew whenever it comes on a CPU.
    pub ways: Ways,
    /// DR0 to DR3.
    pub breakpoints: [u64; 4],
    /// DR6.
    pub debug_status: Dr6Flags,
    /// DR7.
    pub debug_control: Dr7Flags,
    /// The root of the guest's kernel, held as an L4.
    pub kernel_root: Option<RamFrame>,
    /// The root of the guest's user mode, held as an L4.
    pub user_root: Option<RamFrame>,
    /// What the CPU loads for them. In force while the vcpu is on a CPU; found anew whenever it comes on one.
    pub loaded: LoadedRoots,
    /// I/O privilege level.
    pub iopl: u8,
    /// I/O permission bitmap: a guest address (`physdev_op set_iobitmap`).
    pub io_bitmap: u64,
    /// Ports that the bitmap covers.
    pub io_bitmap_ports: u32,
    /// What the guest last wrote to the PCI configuration address port.
    pub pci_address: u32,
}

impl VcpuState {
    /// The state before the guest or the toolstack gave one.
    #[must_use]
    pub fn new(info: VcpuInfoPlace) -> Self {
        let none = Callback::default();
        Self {
            regs: Regs::default(),
            extended: ExtendedState::RESET,
            in_kernel: true,
            info,
            traps: TrapTable::default(),
            event_callback: none,
            failsafe_callback: none,
            syscall_callback: none,
            syscall32_callback: none,
            sysenter_callback: none,
            callback_selectors: [0; 2],
            kernel_ss: 0,
            kernel_sp: 0,
            fs_base: 0,
            gs_base_kernel: 0,
            gs_base_user: 0,
            tsc_aux: 0,
            machine_check_status: 0,
            selectors: [0; 4],
            selectors_wait: false,
            gdt: [None; 14],
            gdt_entries: 0,
            ldt_base: 0,
            ldt_entries: 0,
            ldt: [None; LDT_PAGES],
            task_switched: false,
            cr4: CR4_AT_START,
            traps_tsc: false,
            spec_ctrl: SpecCtrl::empty(),
            ways: Ways::default(),
            breakpoints: [0; 4],
            debug_status: DEBUG_STATUS_RESET,
            debug_control: DEBUG_CONTROL_RESET,
            kernel_root: None,
            user_root: None,
            loaded: LoadedRoots::NOWHERE,
            iopl: 0,
            io_bitmap: 0,
            io_bitmap_ports: 0,
            pci_address: 0,
        }
    }

    /// What the CPU loads for the mode that the vcpu is in.
    #[inline]
    #[must_use]
    pub const fn loaded_root(&self) -> RootAddress {
        if self.in_kernel { self.loaded.kernel } else { self.loaded.user }
    }

    /// CR4 in the CPU, where the guest's own is `own`.
    #[must_use]
    pub const fn loaded_cr4(&self, own: Cr4Flags) -> Cr4Flags {
        if self.traps_tsc { own.union(Cr4Flags::TIMESTAMP_DISABLE) } else { own }
    }
}

/// DR6 and DR7 with nothing set: the bits that always read as one (Intel SDM vol. 3B, 17.2).
pub const DEBUG_STATUS_RESET: Dr6Flags = Dr6Flags::from_bits_retain(0xffff_0ff0);
/// DR7 when no breakpoint is on.
pub const DEBUG_CONTROL_RESET: Dr7Flags = Dr7Flags::from_bits_retain(0x400);

/// What running a vcpu asks of the CPU.
pub trait Processor {
    /// Loads the hypervisor's own root and nothing of any vcpu: what was loaded last may go away.
    fn unload(&self);
    /// Loads everything of `state` that is in the CPU while a vcpu runs: extended state, segment bases, selectors,
    /// debug registers, descriptor table windows, the root of the mode it is in. Returns whether the CPU took all
    /// selectors; where it did not, null is loaded.
    #[must_use]
    fn load(&self, state: &VcpuState) -> bool;
    /// Loads selectors and bases of the vcpu that runs, and returns whether the CPU took all selectors.
    #[must_use]
    fn load_segments(&self, state: &VcpuState) -> bool;
    /// Takes back what the guest can change without the hypervisor: extended state, selectors unless they wait, bases.
    fn save(&self, state: &mut VcpuState);
    /// FS base, GS base in force, and the other GS base, of the vcpu that runs.
    fn bases(&self, state: &VcpuState) -> (u64, u64, u64);
    /// Loads the FS base of the vcpu that runs.
    fn set_fs_base(&self, base: u64);
    /// Loads the GS base in force.
    fn set_gs_base(&self, base: u64);
    /// Loads the GS base of the mode that is not in force.
    fn set_other_gs_base(&self, base: u64);
    /// Loads what RDTSCP answers in ECX.
    fn set_tsc_aux(&self, value: u32);
    /// Loads the guest's own bits of CR4 (`control_registers::CR4_GUEST`); returns whether the CPU has them.
    fn set_guest_cr4(&self, cr4: Cr4Flags) -> bool;
    /// Takes DR6 as the CPU left it, and clears it.
    fn take_debug_status(&self) -> Dr6Flags;
    /// Loads the selector into the GS that user mode sees; a bad one becomes null. Returns whether it was good.
    fn set_user_gs(&self, selector: u16) -> bool;
    /// Shows the vcpu's descriptor tables to the CPU, after they changed.
    fn load_descriptor_tables(&self, state: &VcpuState);
    /// Sets or clears CR0.TS, so that the guest's next use of the FPU faults or not.
    fn set_task_switched(&self, set: bool);
    /// Loads the debug registers.
    fn load_debug_registers(&self, state: &VcpuState);
    /// Switches what depends on the mode: root, GS base. `state.in_kernel` says which mode is entered.
    fn switch_mode(&self, state: &VcpuState);
}
