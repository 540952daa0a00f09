//! Hypercalls whose arguments are a few words and perhaps one structure, as a table: a line each.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::hypercall::HYPERCALL_SLOT_BYTES;
use oxen_abi::hypercall::Hypercall::{self, *};
use oxen_abi::{callback, console_io, grant_table, memory, mmu, physdev, segments, vcpu, version};

use super::ticks;
use crate::raw::hypercall::page;

/// Words of the structure, and of what is written to it.
const ROOM: usize = 256;

/// Where the structure of every call stands.
static STRUCTURE: [AtomicU64; ROOM] = [const { AtomicU64::new(0) }; ROOM];

/// A call, and what stands in its structure before it.
#[derive(Debug)]
pub struct Plain {
    /// The name of its row.
    pub name: &'static str,
    call: Hypercall,
    args: [Arg; 3],
    words: [u64; 2],
}

#[derive(Clone, Copy, Debug)]
enum Arg {
    Word(u32),
    /// The address of the structure.
    At,
}
use Arg::{At, Word};

const NONE: Arg = Word(0);
/// `DOMID_SELF`, as a structure begins with it.
const SELF: u64 = DomId::SELF.0 as u64;

const fn plain(name: &'static str, call: Hypercall, args: [Arg; 3], words: [u64; 2]) -> Plain {
    Plain { name, call, args, words }
}

const fn ask(name: &'static str, call: Hypercall, command: u32) -> Plain {
    plain(name, call, [Word(command), At, NONE], [0; 2])
}

/// An operation of `mmuext_op`, whose record is the structure.
const fn ext(name: &'static str, command: u32, arg1: u64) -> Plain {
    plain(name, MmuextOp, [At, Word(1), NONE], [command as u64, arg1])
}

/// The calls.
pub static PLAIN: [Plain; 37] = [
    ask("version_extra", XenVersion, version::XENVER_EXTRAVERSION),
    ask("version_compile", XenVersion, version::XENVER_COMPILE_INFO),
    ask("version_capabilities", XenVersion, version::XENVER_CAPABILITIES),
    ask("version_changeset", XenVersion, version::XENVER_CHANGESET),
    ask("version_platform", XenVersion, version::XENVER_PLATFORM_PARAMETERS),
    plain("version_pagesize", XenVersion, [Word(version::XENVER_PAGESIZE), NONE, NONE], [0; 2]),
    ask("version_guest_handle", XenVersion, version::XENVER_GUEST_HANDLE),
    ask("version_commandline", XenVersion, version::XENVER_COMMANDLINE),
    plain("console_write_none", ConsoleIo, [Word(console_io::CONSOLEIO_WRITE), Word(0), At], [0; 2]),
    plain("console_read_none", ConsoleIo, [Word(console_io::CONSOLEIO_READ), Word(0), At], [0; 2]),
    plain("vm_assist", VmAssist, [Word(0), Word(2), NONE], [0; 2]),
    plain("callback_register", CallbackOp, [Word(0), At, NONE], [callback::CALLBACKTYPE_SYSCALL32 as u64, 0x1000]),
    plain(
        "set_trap",
        SetTrapTable,
        [At, NONE, NONE],
        [0x81 | 3 << 8 | (segments::FLAT_KERNEL_CS as u64) << 16, 0x1000],
    ),
    plain("set_gdt_none", SetGdt, [Word(0), Word(0), NONE], [0; 2]),
    plain("grant_query_size", GrantTableOp, [Word(grant_table::GNTTABOP_QUERY_SIZE), At, Word(1)], [SELF, 0]),
    plain("grant_get_version", GrantTableOp, [Word(grant_table::GNTTABOP_GET_VERSION), At, Word(1)], [SELF, 0]),
    plain("grant_setup_none", GrantTableOp, [Word(grant_table::GNTTABOP_SETUP_TABLE), At, Word(1)], [SELF, 0]),
    ask("maximum_ram_page", MemoryOp, memory::XENMEM_MAXIMUM_RAM_PAGE),
    plain("maximum_reservation", MemoryOp, [Word(memory::XENMEM_MAXIMUM_RESERVATION), At, NONE], [SELF, 0]),
    plain("maximum_gpfn", MemoryOp, [Word(memory::XENMEM_MAXIMUM_GPFN), At, NONE], [SELF, 0]),
    ask("claim_none", MemoryOp, memory::XENMEM_CLAIM_PAGES),
    ask("sharing_freed", MemoryOp, memory::XENMEM_GET_SHARING_FREED_PAGES),
    ask("sharing_shared", MemoryOp, memory::XENMEM_GET_SHARING_SHARED_PAGES),
    ask("machphys_list_none", MemoryOp, memory::XENMEM_MACHPHYS_MFN_LIST),
    ask("machphys_mapping", MemoryOp, memory::XENMEM_MACHPHYS_MAPPING),
    plain("decrease_none", MemoryOp, [Word(memory::XENMEM_DECREASE_RESERVATION), At, NONE], [0, 0]),
    plain("set_iopl", PhysdevOp, [Word(physdev::PHYSDEVOP_SET_IOPL), At, NONE], [1, 0]),
    plain("set_iobitmap_none", PhysdevOp, [Word(physdev::PHYSDEVOP_SET_IOBITMAP), At, NONE], [0, 0]),
    plain("irq_status", PhysdevOp, [Word(physdev::PHYSDEVOP_IRQ_STATUS_QUERY), At, NONE], [9, 0]),
    plain("vcpu_set_periodic", VcpuOp, [Word(vcpu::VCPUOP_SET_PERIODIC_TIMER), NONE, At], [1 << 40, 0]),
    plain("vcpu_stop_periodic", VcpuOp, [Word(vcpu::VCPUOP_STOP_PERIODIC_TIMER), NONE, NONE], [0, 0]),
    ext("set_ldt_none", mmu::MMUEXT_SET_LDT, 0),
    plain("mmu_update_none", MmuUpdate, [At, Word(0), NONE], [0; 2]),
    plain("mmuext_none", MmuextOp, [At, Word(0), NONE], [0; 2]),
    plain("multicall_none", Multicall, [At, Word(0), NONE], [0; 2]),
    plain("get_debug_status", GetDebugreg, [Word(6), NONE, NONE], [0; 2]),
    plain("get_debug_control", GetDebugreg, [Word(7), NONE, NONE], [0; 2]),
];

/// Ticks of a call; `None` where it is refused.
pub fn plain_call(plain: &Plain) -> Option<u64> {
    let words = plain.words.into_iter().chain(core::iter::repeat(0));
    for (place, word) in STRUCTURE.iter().zip(words) {
        place.store(word, Ordering::Relaxed);
    }
    let args = plain.args.map(|arg| match arg {
        Word(word) => word.into(),
        At => STRUCTURE.as_ptr() as u64,
    });
    let entry = page::hypercall_page as *const () as u64 + plain.call.number() * HYPERCALL_SLOT_BYTES as u64;
    let mut result = 0;
    // SAFETY: the table's calls write to the structure alone, whose words are atomics, and change nothing that the
    // runtime relies on.
    let ticks = ticks(|| result = unsafe { enter(entry, args) });
    Errno::check(result).ok().map(|_| ticks)
}

/// Enters the hypercall page at an address. The fourth argument, where a call has one, is the domain meant.
///
/// # Safety
/// As for the stubs of [`crate::raw::hypercall`].
#[inline(always)]
unsafe fn enter(entry: u64, [first, second, third]: [u64; 3]) -> u64 {
    let result: u64;
    // SAFETY: the page's code follows the hypercall calling convention; effects are the caller's promise.
    unsafe {
        asm!(
            "call rax",
            inlateout("rax") entry => result,
            inlateout("rdi") first => _,
            inlateout("rsi") second => _,
            inlateout("rdx") third => _,
            inlateout("r10") SELF => _,
            lateout("r8") _,
            lateout("r9") _,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}
